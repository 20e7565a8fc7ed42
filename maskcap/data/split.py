"""Train and validation parts of a set that is published without splits, as configurations name them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from maskcap.data.holdout import RecordRange, hold_out
from maskcap.data.record import Record

logger = logging.getLogger(__name__)


def split_part(
    source: Callable[[], Sequence[Record]], part: Literal["train", "val", "all"] = "train", fraction: float = 0.02
) -> RecordRange:
    """Build the source and take a part of it: the last `fraction` of its records (`val`), the rest (`train`), or all.

    A set of one record trains on it. Raises ConfigError for a fraction outside (0, 1), DataError when `val` is asked
    of fewer than two records.
    """
    built = source()
    if part == "all":
        return RecordRange(built, 0, len(built))
    if part == "train" and len(built) == 1:
        logger.warning("source %r has a single record: nothing is held out of training", getattr(built, "name", part))
        return RecordRange(built, 0, 1)
    train, val = hold_out(built, fraction)
    return train if part == "train" else val
