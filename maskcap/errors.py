"""Every mistake a user can make, as a type; each message names the file or sample, what is wrong and the fix."""

from __future__ import annotations


class MaskcapError(Exception):
    """Base of all errors that maskcap raises on purpose; the commands print it as one message, no traceback."""


class ConfigError(MaskcapError):
    """The composed configuration is wrong: unknown key, wrong type, untrusted target, impossible combination."""


class DataError(MaskcapError):
    """A data set, record or sample cannot be used as it lies on disk.

    reason: a few words that many samples may share ("truncated", "empty mask"); counts of bad samples go by it.
    """

    reason = "malformed record"

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class MaskDecodeError(DataError, ValueError):
    """A segmentation (RLE, polygons or bitmap) is malformed; raised before pycocotools could see it."""

    reason = "malformed mask"


class ImageDecodeError(DataError):
    """An image or video frame cannot be read, or its pixels do not fit its annotation."""

    reason = "unreadable image"


class ShardError(DataError):
    """A tar shard is truncated, lacks a member or fails its checksum."""

    reason = "damaged shard"


class CheckpointError(MaskcapError):
    """A checkpoint is missing, unreadable, or of another model."""


class SequenceTooLongError(MaskcapError):
    """A sample's tokens do not fit the configured maximum length; nothing is truncated in silence."""


class NonFiniteError(MaskcapError):
    """A loss or gradient was not finite, and `module.on_nonfinite` and `max_nonfinite` end the run."""


class OutOfMemory(MaskcapError):
    """A batch, or a sample alone, does not fit the memory of a device; the message names the samples."""


class WorkerError(MaskcapError):
    """A process that prepares data was killed or ended by itself."""
