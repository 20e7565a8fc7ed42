"""After a multirun: its runs side by side, on the terminal and in `comparison.json` and `comparison.md`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from maskcap.cli.runs import leaves

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.table import Table

log = logging.getLogger(__name__)

METRICS = (
    "val/caption_exact",
    "val/caption_cider",
    "val/miou",
    "val/ciou",
    "val/miou_content",
    "val/prompt_miou",
    "val/cycle_miou",
    "val/cross_frame_miou",
    "train_seconds",
    "val_seconds",
)
_PLACES = ("paths.", "hydra.", "callbacks.trial.")  # what differs between any two runs


class CompareRuns(Callback):
    """Hydra's callback at the end of a multirun.

    metrics: names in the runs' `metrics.json` that the table shows, where any run has them, after `optimized_metric`;
    the files hold all of them. The settings shown are those in which the runs differ.
    """

    def __init__(self, metrics: Sequence[str] = METRICS) -> None:
        self.metrics = tuple(metrics)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the folders that the jobs wrote, also those on other machines; Optuna's trials have their own table."""
        if config.hydra.get("sweeper", {}).get("study"):
            return
        folder = Path(config.hydra.sweep.dir)
        runs = read_runs(folder)
        if not runs:
            log.warning("%s holds no run to compare", folder)
            return
        optimized = config.get("optimized_metric")
        write_comparison(runs, folder, (*([optimized] if optimized else []), *self.metrics))


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Each run below `folder`, by job number: `run`, `settings` (those in which the runs differ) and `metrics`, empty
    for a run that ended before its first validation."""
    from omegaconf import OmegaConf

    found = []
    files = [file for file in folder.glob("*/config.yaml") if file.is_file()]
    for file in sorted(files, key=lambda file: (len(file.parent.name), file.parent.name)):
        config = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        settings = {key: value for key, value in leaves(config).items() if not f"{key}.".startswith(_PLACES)}
        metrics = file.with_name("metrics.json")
        read = json.loads(metrics.read_text()) if metrics.is_file() else {}
        found.append({"run": file.parent.name, "settings": settings, "metrics": read})
    keys = dict.fromkeys(key for run in found for key in run["settings"])
    differ = [key for key in keys if len({repr(run["settings"].get(key)) for run in found}) > 1]
    for run in found:
        run["settings"] = {key: run["settings"].get(key) for key in differ}
    return found


def write_comparison(runs: Sequence[dict[str, Any]], folder: Path, metrics: Sequence[str] = METRICS) -> None:
    """Print the table; write `comparison.json` (all metrics) and `comparison.md` (the table) into `folder`."""
    from rich.console import Console

    header, rows = comparison_table(runs, metrics)
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=160)
    console.print(_rich(header, rows))
    (folder / "comparison.json").write_text(json.dumps(list(runs), indent=2) + "\n")
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    (folder / "comparison.md").write_text("\n".join(lines) + "\n")
    console.print(f"  {folder / 'comparison.md'}  this table; comparison.json: every metric", highlight=False)


def comparison_table(runs: Sequence[dict[str, Any]], metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: the run, its settings, its metrics; "-" for what a run lacks."""
    settings = list(runs[0]["settings"])
    shown = [name for name in dict.fromkeys(metrics) if any(name in run["metrics"] for run in runs)]
    rows = []
    for run in runs:
        values = [run["metrics"].get(name) for name in shown]
        cells = [f"{run['settings'][key]}" for key in settings]
        rows.append([run["run"], *cells, *("-" if value is None else f"{value:.4g}" for value in values)])
    return ["run", *settings, *(name.removeprefix("val/") for name in shown)], rows


def _rich(header: list[str], rows: list[list[str]]) -> Table:
    from rich.table import Table

    table = Table(title="Runs", title_justify="left", header_style="bold")
    for name in header:
        table.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
