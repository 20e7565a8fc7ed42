"""What `maskcap tokens` prints at its end: what the image or the data set costs, and where the files are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.vision_tokens.rule import TilingRule
from maskcap.vision_tokens.survey import Survey, weighted_mean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH = 132  # where the output is no terminal
_TILINGS = 12  # of a data set; overlap.json has all


def print_image(facts: dict[str, Any], rule: TilingRule, folder: Path) -> None:
    """Print one image's costs to stdout; facts: `views_facts`."""
    overlap, (rows, columns) = facts["overlap"], facts["tiling"]
    table = _table("Crops", "image", "tiling", "canvas", "padding", "slots", "kept", "sequence", "overlap", "wasted")
    table.add_row(
        f"{facts['height']} × {facts['width']}",
        f"{rows} × {columns} of {rule.geometry.crop} px",
        "{} × {}".format(*facts["canvas"]),
        f"{facts['padding']:.1%}",
        f"{facts['slots']:,}",
        f"{facts['kept']:,}",
        f"{facts['sequence_length']:,}",
        f"{overlap['overlap']:.1%}",
        f"{overlap['wasted']:.1%}",
    )
    console = _console()
    console.print(table)
    console.print(
        "Sizes are height × width. slots: tokens the vision encoder computes; kept: those the language model reads; "
        "sequence: with what stands around them.",
        highlight=False,
    )
    _print_files(
        console,
        folder,
        ("crops.png", "the crops on the image and side by side"),
        ("crops", "each view's pixels"),
        ("overlap.json", "every number, and every tiling up to max_crops"),
    )


def print_patches(facts: dict[str, Any], folder: Path) -> None:
    """Print one image's adaptive patches to stdout; facts: `patch_facts`."""
    table = _table("Patches", "image", "resized", "grid", "method", "tokens", "of", "share", "fewest")
    bits = ", ".join(f"{threshold:g}" for threshold in facts["thresholds"] or ())
    table.add_row(
        "{} × {}".format(*facts["size"]),
        "{} × {}".format(*facts["resized"]),
        "{} × {}".format(*facts["grid"]),
        f"v1, {bits} bits" if facts["method"] == "v1" else f"{facts['method']}, alpha {facts['alpha']:g}",
        f"{facts['tokens']:,}",
        f"{facts['all']:,}",
        f"{facts['tokens'] / facts['all']:.1%}",
        f"{facts['fewest']:,}",
    )
    levels = _table("Where they were spent", "cells of", "tokens", "area", "mean entropy")
    for level in facts["levels"]:
        mean = "–" if level["mean_entropy"] is None else f"{level['mean_entropy']:.2f} bits"
        levels.add_row(f"{level['side']} px", f"{level['cells']:,}", f"{level['area']:.1%}", mean)
    console = _console()
    for each in (table, levels):
        console.print(each)
    console.print(
        "Sizes are height × width. budget: alpha is the share of the tokens to spend; v2: a larger alpha gives fewer.",
        highlight=False,
    )
    _print_files(
        console,
        folder,
        ("patches.png", "the cells on the image, their entropy, tokens against alpha"),
        ("patches.json", "every number, cell and curve"),
    )


def print_data(found: Survey, folder: Path) -> None:
    """Print a data set's tilings, and how its list fits, to stdout."""
    tilings = _table("Tilings", "rows × columns", "images", "share", "slots", "kept")
    most = sorted(found.tilings, key=lambda tiling: -found.tilings[tiling])[:_TILINGS]
    for tiling, images in found.tilings.items():
        if tiling in most:
            costs = f"{found.slots(*tiling):,}", f"{found.kept(*tiling):,}"
            tilings.add_row("{} × {}".format(*tiling), f"{images:,}", f"{images / found.images:.1%}", *costs)
    if rest := len(found.tilings) - len(most):
        left = found.images - sum(found.tilings[tiling] for tiling in most)
        tilings.add_row(f"{rest} others", f"{left:,}", f"{left / found.images:.1%}", "", "")
    mean_slots, mean_kept = (weighted_mean(found.tilings, value) for value in (found.slots, found.kept))
    tilings.add_section()
    tilings.add_row("mean", f"{found.images:,}", "", f"{mean_slots:,.0f}", f"{mean_kept:,.0f}")
    listed = _table(f"How {found.listed} fit", "entry", "crops", "images", "share", "aspect error", "padding")
    for entry in found.entries:
        listed.add_row(
            entry.entry, str(entry.crops), f"{entry.fit.images:,}", f"{entry.fit.share:.1%}", *_fit(entry.fit)
        )
    listed.add_section()
    listed.add_row("the list", "", f"{found.list_fit.images:,}", "", *_fit(found.list_fit))
    if found.listed not in ("vision_tokens", "image_sizes"):
        listed.add_row("as configured", "", f"{found.fit.images:,}", "", *_fit(found.fit))
    console = _console()
    for table in (tilings, listed):
        console.print(table)
    console.print("aspect error: mean |ln| of the image's aspect ratio over its canvas's.", highlight=False)
    if found.bad:
        console.print(f"{found.bad} of {found.records} records are bad; `maskcap check` names them.", style="bold")
    _print_files(
        console,
        folder,
        ("tilings.png", "the same as a picture"),
        ("samples.png", "images with their crops"),
        ("overlap.json", "every number, and every tiling up to max_crops"),
    )


def _fit(fit: Any) -> tuple[str, str]:
    if fit.aspect_error is None:
        return "–", "–"
    return f"{fit.aspect_error:.3f}", f"{fit.padding:.1%}"


def _table(title: str, first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _console() -> Console:
    from rich.console import Console

    console = Console(soft_wrap=False)
    return console if console.is_terminal else Console(width=_WIDTH)


def _print_files(console: Console, folder: Path, *files: tuple[str, str]) -> None:
    for name, what in files:
        console.print(f"  {folder / name}  {what}", highlight=False, soft_wrap=True, markup=False)
