"""The bytes of a file, or of a file inside of a tar shard."""

from __future__ import annotations

from pathlib import Path

from maskcap.data.record import Member
from maskcap.errors import ImageDecodeError


def read_bytes(path: Path | Member, where: str) -> bytes:
    """All bytes of an image or video. `where`: the sample and the file, for messages.

    Raises ImageDecodeError for a file that is not there ("missing file") or cannot be read ("unreadable image"), and
    ShardError for a member that is not what the shard's index says; both name `where`.
    """
    if isinstance(path, Member):
        from maskcap.data.shards.members import read_member

        return read_member(path, where)
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        problem = f"{where}: no such file. Fetch it, or correct the folder that it is looked for in."
        raise ImageDecodeError(problem, "missing file") from None
    except OSError as error:
        raise ImageDecodeError(f"{where}: cannot be read: {error.strerror}.", "unreadable image") from error
