"""What `maskcap tokens profile` and `maskcap tokens sweep` print at their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.vision_tokens.latency import COMPONENTS, LatencyTable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH = 150  # where the output is no terminal
NAMES = {
    "preprocess": "preprocess",
    "vit": "ViT",
    "projector": "projector",
    "prefill": "LM prefill",
    "decode": "decode a token",
    "sam_encode": "SAM2 encode",
    "sam_decode": "SAM2 decode",
}
"""The components, as people read them."""
SCORES = ("caption_exact", "caption_f1", "miou", "ciou", "prompt_miou", "prompt_ciou", "cycle_miou", "cross_frame_miou")
"""Of a sweep's scores, those that are shown; sweep.json has all."""
_NOTE = (
    "One image at a time, medians. slots: tokens the vision encoder computes; tokens: those the language model reads. "
    "prefill: all that it reads, image, question and phrase. total: one caption of {} tokens and one mask, end to end."
)


def print_latencies(table: LatencyTable, path: Path) -> None:
    """Print a latency table to stdout, and where it lies."""
    columns = ["crops", "tiling", "slots", "tokens", *NAMES.values(), "total"]
    printed = _table(f"Latency in ms on {table.device}", columns)
    for row in table.rows:
        times = [f"{ms:.1f}" for ms in (*(row.ms[name] for name in COMPONENTS), row.total)]
        printed.add_row(str(row.crops), f"{row.rows} × {row.columns}", f"{row.slots:,}", f"{row.tokens:,}", *times)
    console = _console()
    console.print(printed)
    console.print(table.model, highlight=False)
    console.print(_NOTE.format(table.new_tokens), highlight=False)
    console.print(f"written: {path}", highlight=False, soft_wrap=True)


def print_sweep(settings: Sequence[Mapping[str, Any]], new_tokens: int, device: str, files: Sequence[Path]) -> None:
    """Print a sweep's settings (`sweep.json`) to stdout: first their scores, then their latencies."""
    names = [name for name in SCORES if any(name in each["scores"] for each in settings)]
    scores = _table("Scores", ["setting", "tilings", "slots", "tokens", "batch size", *names])
    times = _table(f"Latency in ms an image on {device}", ["setting", *NAMES.values(), "total"])
    for each in settings:
        costs = [f"{each[name]:,.0f}" if each[name] is not None else "–" for name in ("slots", "tokens")]
        values = [_number(each["scores"].get(name), 3) for name in names]
        scores.add_row(each["name"], _tilings(each["tilings"]), *costs, _batch_size(each), *values)
        ms = each["ms"] or {}
        times.add_row(each["name"], *[_number(ms.get(name), 1) for name in (*COMPONENTS, "total")])
    console = _console()
    for table in (scores, times):
        console.print(table)
    console.print(_NOTE.format(new_tokens), highlight=False)
    for each in settings:
        if each["note"]:
            console.print(f"{each['name']}: {each['note']}", style="bold", highlight=False)
    for path in files:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)


def _tilings(counts: Mapping[str, int]) -> str:
    """The two that most images take, with their shares."""
    images = sum(counts.values())
    most = sorted(counts, key=lambda name: -counts[name])[:2]
    shares = [f"{name.replace('x', ' × ')} {counts[name] / images:.0%}" for name in most]
    return ", ".join([*shares, "…"] if len(counts) > 2 else shares) or "–"


def _batch_size(setting: Mapping[str, Any]) -> str:
    tried = setting["tried_batch_sizes"]
    if setting["batch_size"] is None:
        return "none fits"
    return " → ".join(map(str, tried))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)
