"""What `maskcap check` prints at its end: a table of the sources, a table of the reasons, and where the files are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from maskcap.data.checks.statistics import merged
from maskcap.data.source_facts import skipped_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from maskcap.data.checks.walk import SourceReport

_WIDTH = 132  # where the output is no terminal
_FURTHER = ("turns", "answer_phrases", "videos", "without_image", "empty_by_right")


def print_report(reports: Mapping[str, SourceReport], folder: Path) -> None:
    """Print the tables of every source ("set/name" → its report) to stdout; `folder` holds the files."""
    from rich.console import Console

    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    whole = merged(report.statistics for report in reports.values())
    console.print(_sources(reports))
    _print_skipped(console, reports)
    if whole.counts["problems"]:
        console.print(_reasons(reports))
        counts = whole.counts
        summary = f"{counts['problems']} problems in {counts['bad_records']} of {counts['records']} records."
    else:
        summary = f"All {whole.counts['records']} records are good."
    console.print(summary, style="bold", highlight=False)
    for name, what in (
        ("bad_samples.jsonl", "every problem, a line each"),
        ("check.json", "counts and histograms"),
        ("histograms.png", "their picture"),
    ):
        if (folder / name).is_file():
            console.print(f"  {folder / name}  {what}", highlight=False, soft_wrap=True)


def _sources(reports: Mapping[str, SourceReport]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Records", title_justify="left", header_style="bold")
    table.add_column("source", overflow="fold")
    whole = merged(report.statistics for report in reports.values()).counts
    further = [name for name in _FURTHER if whole[name]]  # a column more only where there is something to tell
    heads = [name.replace("_", " ") for name in further]
    for name in ("records", "bad", "files", "images", "regions", "captions", "masks", "vanish on the grid", *heads):
        table.add_column(name, justify="right")
    for name, report in reports.items():
        counts = report.statistics.counts
        masks, vanish = counts["masks"] - counts["empty_masks"], counts["vanish_on_grid"]
        share = f"{vanish} ({vanish / masks:.1%})" if masks else "0"
        shown = (counts["records"], counts["bad_records"], report.files, counts["images"], counts["regions"])
        words = str(counts["captions"]), str(counts["masks"]), share
        table.add_row(Text(name), *map(str, shown), *words, *(str(counts[column]) for column in further))
    return table


def _reasons(reports: Mapping[str, SourceReport]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Problems", title_justify="left", header_style="bold")
    table.add_column("source", overflow="fold")
    table.add_column("reason")
    table.add_column("problems", justify="right")
    table.add_column("first keys", overflow="fold")
    for name, report in reports.items():
        for reason, count in report.statistics.reasons.most_common():
            # Texts, not strings: a key's brackets are no markup.
            table.add_row(Text(name), reason, str(count), Text(", ".join(report.statistics.first[reason])))
    return table


def _print_skipped(console: Console, reports: Mapping[str, SourceReport]) -> None:
    for name, report in reports.items():
        listed = ", ".join(f"{count} {reason}" for reason, count in skipped_of(report.source).items())
        if listed:
            console.print(f"{name} leaves out by its own rules: {listed}", highlight=False, markup=False)
