"""A wandb run that a resumed run continues."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger

ID_FILE = "wandb_id"  # in the run's folder
_ABOVE = 3  # folders above a checkpoint that may be its run's


class WandbLog(WandbLogger):
    """Lightning's WandbLogger under an id that is kept in the run's folder.

    save_dir: the run's folder; a run that goes on in it goes on in its curves. checkpoint: what the run begins with, a
    file or a folder; of another run, wandb's config has it, with that run's id, as `resumed_from`. offline: no network
    and no key; a later `wandb sync` sends the folder `wandb/offline-run-…` of each stretch, the later ones with
    `--append`. options: further arguments of `wandb.init`. The wandb run ends with the fit, so that the next job of a
    multirun in the same process has its own.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "maskcap",
        name: str | None = None,
        offline: bool = True,
        checkpoint: str | None = None,
        log_model: bool = False,
        **options: Any,
    ) -> None:
        self._file = Path(save_dir) / ID_FILE
        run_id = options.pop("id", None) or _known_id(self._file.parent)
        if (other := _other_run(checkpoint, self._file.parent)) is not None:
            options["config"] = {**(options.get("config") or {}), "resumed_from": other}
        super().__init__(
            name=name,
            save_dir=save_dir,
            offline=offline,
            project=project,
            log_model=log_model,
            id=run_id or secrets.token_hex(4),
            **options,
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The wandb run; its id is written down first."""
        if self._experiment is None and self._id is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(f"{self._id}\n", encoding="utf-8")
        return super().experiment

    def finalize(self, status: str) -> None:
        """Ends the wandb run; asked for again, it goes on under the same id."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


def _known_id(folder: Path) -> str | None:
    file = folder / ID_FILE
    return file.read_text(encoding="utf-8").strip() or None if file.is_file() else None


def _other_run(checkpoint: str | None, run: Path) -> dict[str, str] | None:
    """The checkpoint of another run that this one begins with, and that run's id; None for its own, or none."""
    if checkpoint is None or checkpoint == "auto":
        return None
    place = Path(checkpoint).resolve()
    folders = [place, *place.parents][: _ABOVE + 1]
    if run.resolve() in folders:
        return None
    ids = [{"id": found} for folder in folders if (found := _known_id(folder)) is not None]
    return {"checkpoint": str(place), **(ids[0] if ids else {})}
