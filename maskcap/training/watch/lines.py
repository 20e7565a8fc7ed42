"""Lines of JSON over a socket that is never waited for."""

from __future__ import annotations

import json
import socket
from typing import Any


class Lines:
    """One end of a connection, which the other end's silence cannot hold up.

    `send` drops what a full buffer does not take: whoever does not read is found out by its own silence.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._rest = b""

    def fileno(self) -> int:
        """For `selectors`."""
        return self.connection.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Best effort: a closed connection shows when it is read."""
        data = json.dumps(message).encode() + b"\n"
        try:
            sent = self.connection.send(data)
            if sent < len(data):  # the rest of a begun line must follow, or the next one could not be read
                self.connection.setblocking(True)
                self.connection.settimeout(1)
                self.connection.sendall(data[sent:])
                self.connection.setblocking(False)
        except OSError:
            return

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come, without waiting; None: the other end is gone."""
        try:
            data = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in whole]

    def close(self) -> None:
        """The other end sees it."""
        self.connection.close()
