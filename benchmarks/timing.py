"""Times of several ways to do the same, taken in turns, and their table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Times:
    """Time of each call, by the process's own processor time and by the clock; in seconds, or as `scaled` made it.

    Processor time is the clock's, less what other programs took meanwhile: on a quiet machine they are the same.
    """

    processor: list[float]
    clock: list[float]

    @property
    def processor_median(self) -> float:
        """Median of the processor times."""
        return median(self.processor)

    @property
    def clock_median(self) -> float:
        """Median by the clock."""
        return median(self.clock)

    def scaled(self, factor: float) -> Times:
        """Every time multiplied by `factor`."""
        return Times([factor * time_ for time_ in self.processor], [factor * time_ for time_ in self.clock])


def take_turns(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Time each case `rounds` times, after one time that is not counted.

    Round by round the cases take turns, so that whatever slows the machine for a while slows all of them.
    """
    times = {name: Times([], []) for name in cases}
    for round_ in range(-1, rounds):
        for name, case in cases.items():
            clock, processor = time.perf_counter(), time.process_time()
            case()
            processor, clock = time.process_time() - processor, time.perf_counter() - clock
            if round_ >= 0:
                times[name].processor.append(processor)
                times[name].clock.append(clock)
    return times


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; all but the first to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def write(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    return "\n".join(write(line) for line in (lines[0], rule, *lines[1:]))


def finish(figures: dict[str, float], file: Path | None) -> dict[str, float]:
    """Print a benchmark's figures on one line and write them to `file`, if there is one, as flat JSON; returns them."""
    print("\n" + "  ".join(f"{name} {figure:.3g}" for name, figure in figures.items()))
    if file is not None:
        file.write_text(json.dumps(figures, indent=2) + "\n")
    return figures
