"""Samples that could not be made: named, counted by reason, written down. Nothing is left out in silence."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from maskcap.errors import DataError, MaskcapError


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


def append_bad_samples(path: Path, bad: Iterable[BadSample]) -> None:
    """Append one line for each to a jsonl file; its folder is made, nothing is written for none."""
    lines = "".join(f"{sample.to_json()}\n" for sample in bad)
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(lines)
