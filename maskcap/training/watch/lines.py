"""Lines of JSON over a socket that is never waited for."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

_LONGEST = 1 << 16  # bytes of a line; ours have a few hundred


class Lines:
    """One end of a connection, which the other end's silence cannot hold up.

    `send` drops what a full buffer does not take: whoever does not read is found out by its own silence.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._rest = b""
        self._unsent = b""

    def fileno(self) -> int:
        """For `selectors`."""
        return self.connection.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Best effort: a closed connection shows when it is read."""
        line = json.dumps(message).encode() + b"\n"
        with suppress(OSError):
            self._push(0)  # the rest of a begun line must come first, or the next one could not be read
            self._unsent = line[self.connection.send(line) :]
            self._push(1)

    def _push(self, seconds: float) -> None:
        """What is left of a begun line, waiting so long for the other end. Raises OSError."""
        try:
            self.connection.settimeout(seconds)
            while self._unsent:
                self._unsent = self._unsent[self.connection.send(self._unsent) :]
        finally:
            self.connection.settimeout(0)

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come, without waiting; None: the other end is gone, or talks of something else."""
        try:
            data = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST:
            return None
        try:
            messages = [json.loads(line) for line in whole]
        except (ValueError, RecursionError):
            return None
        return messages if all(isinstance(each, dict) for each in messages) else None

    def close(self) -> None:
        """The other end sees it."""
        self.connection.close()
