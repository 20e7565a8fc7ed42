"""Samples that could not be made: named, counted by reason, written down. Nothing is left out in silence."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from maskcap.durable import where_there_is_room
from maskcap.errors import ConfigError, DataError, MaskcapError

logger = logging.getLogger(__name__)

OnBadSample = Literal["raise", "skip"]
_FEW = 1000  # so many samples are taken as drawn from the start, so that a single early bad one is no large fraction
_SHOWN = 3  # warnings in the log; the file has them all


@dataclass(frozen=True)
class BadSample:
    """key: the record's, or "<source>#<index>" where it could not be read. message: the error's, whole."""

    key: str
    reason: str
    message: str

    @staticmethod
    def of(key: str, error: MaskcapError) -> BadSample:
        """From the error that a source or `make_sample` raised."""
        return BadSample(key, error.reason if isinstance(error, DataError) else type(error).__name__, str(error))

    def to_json(self) -> str:
        """One line of `bad_samples.jsonl`, without its end."""
        return json.dumps({"key": self.key, "reason": self.reason, "message": self.message}, ensure_ascii=False)


@dataclass(frozen=True)
class BadSamplePolicy:
    """What becomes of a sample that cannot be made.

    on_bad_sample: "raise" ends the run with the sample's error; "skip" draws the next of the same epoch in its place.
    max_bad_fraction: of all samples drawn in an epoch, 0 to 1; more bad ones than this end the run.
    file: where each bad sample is written once, a line of JSON (key, reason, message); None: in the log alone.

    Raises ConfigError for other values.
    """

    on_bad_sample: OnBadSample = "raise"
    max_bad_fraction: float = 0.01
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.on_bad_sample not in ("raise", "skip"):
            raise ConfigError(f'data.on_bad_sample={self.on_bad_sample!r}: choose "raise" or "skip"')
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"data.max_bad_fraction={self.max_bad_fraction}: needs a number from 0 to 1")

    @property
    def skips(self) -> bool:
        """Whether a bad sample is replaced."""
        return self.on_bad_sample == "skip"


class BadSampleLog:
    """Counts the bad samples of one loader, writes each down once, and ends the run past the policy's fraction."""

    def __init__(self, policy: BadSamplePolicy, where: str) -> None:
        self._policy = policy
        self._where = where
        self._written: set[tuple[str, str]] = set()
        self.begin(0)

    def begin(self, samples: int) -> None:
        """A new epoch, in which `samples` are to be drawn."""
        self._least = min(samples, _FEW)
        self._drawn = 0
        self.counts: Counter[str] = Counter()

    def add(self, bad: Sequence[BadSample], drawn: int) -> None:
        """Note a batch of `drawn` samples, of which `bad` were replaced. Raises DataError past the fraction."""
        self._drawn += drawn
        if not bad:
            return
        self.counts.update(sample.reason for sample in bad)
        new = list({(sample.key, sample.reason): sample for sample in bad}.items())
        new = [(name, sample) for name, sample in new if name not in self._written]
        for number, (name, sample) in enumerate(new, start=len(self._written)):
            self._written.add(name)
            if number < _SHOWN:
                logger.warning("%s: passed over a bad sample (%s): %s", self._where, sample.reason, sample.message)
        if self._policy.file is not None:
            append_bad_samples(self._policy.file, (sample for _, sample in new))
        total, most = self.counts.total(), self._policy.max_bad_fraction
        of = max(self._drawn, self._least)
        if total > most * of:
            listed = f"{self._policy.file} lists them" if self._policy.file else "the log names the first"
            raise DataError(
                f"{self._where}: {total} of {self._drawn} samples drawn are bad ({self.summary()}), more than "
                f"data.max_bad_fraction={most} of {of} allows; {listed}, `maskcap check` finds every one. The last: "
                f"{bad[-1].message}",
                bad[-1].reason,
            )

    def summary(self) -> str:
        """The counts of this epoch by reason: `3 truncated image, 1 empty mask`."""
        return ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())

    def report(self) -> None:
        """Log the counts at the end of an epoch, if there are any."""
        if self.counts:
            logger.warning(
                "%s: %d bad samples of %d were passed over: %s",
                self._where,
                self.counts.total(),
                self._drawn,
                self.summary(),
            )


def append_bad_samples(path: Path, bad: Iterable[BadSample]) -> None:
    """Append one line for each to a jsonl file; its folder is made, nothing is written for none."""
    lines = "".join(f"{sample.to_json()}\n" for sample in bad)
    if lines:
        with where_there_is_room(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(lines)
