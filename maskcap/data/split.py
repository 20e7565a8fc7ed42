"""Train and validation parts of a set that is published without splits, as configurations name them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from maskcap.data.holdout import RecordSubset, hold_out
from maskcap.data.record import Record
from maskcap.data.source_facts import source_name

logger = logging.getLogger(__name__)


def split_part(
    source: Callable[[], Sequence[Record]], part: Literal["train", "val", "all"] = "train", fraction: float = 0.02
) -> RecordSubset:
    """Build the source and take a part of it: the images of its last `fraction` of records (`val`), the rest
    (`train`), or all.

    A set of one record trains on it. Raises ConfigError for a fraction outside (0, 1), DataError when `val` is asked
    of fewer than two records.
    """
    built = source()
    if part == "all":
        return RecordSubset(built, range(len(built)))
    if part == "train" and len(built) == 1:
        logger.warning("source %r has a single record: nothing is held out of training", source_name(built))
        return RecordSubset(built, range(1))
    train, val = hold_out(built, fraction)
    return train if part == "train" else val
