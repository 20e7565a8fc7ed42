"""run.json: which code on which machine made a run, when, and how it ended; wandb is told it too."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from maskcap.durable import where_there_is_room, write_whole
from maskcap.training.run_facts import code_version, command_line, machine, versions

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

FILE = "run.json"


class RunRecord(pl.Callback):
    """Writes `<run folder>/run.json` when a fit or an evaluation begins, and again when a fit ends.

    `status` is running, finished or the name of what ended it; `starts` has an entry for each start of a run that was
    resumed in its folder. wandb loggers get the composed configuration (config.yaml) and these facts as their config.
    Only rank 0 writes.
    """

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The step to go on from is known by now."""
        if trainer.is_global_zero:
            self._begin(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Of an evaluation alone."""
        if trainer.is_global_zero and trainer.state.fn == "validate":
            self._begin(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The end of a fit that went through."""
        self._end(trainer, "finished")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The end of one that did not."""
        self._end(trainer, type(exception).__name__)

    def _begin(self, trainer: pl.Trainer) -> None:
        path = Path(trainer.default_root_dir) / FILE
        earlier = _read(path).get("starts", [])
        start = {"at": _now(), "step": trainer.global_step, "checkpoint": _text(trainer.ckpt_path)}
        self._facts = {
            "status": "running",
            "command": command_line(),
            "versions": versions(),
            "code": code_version(),
            "machine": machine(),
            "device": str(trainer.strategy.root_device),
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
            "starts": [*earlier, start] if isinstance(earlier, list) else [start],
        }
        _write(path, self._facts)
        for logger in trainer.loggers:
            _tell(logger, path.parent, self._facts)

    def _end(self, trainer: pl.Trainer, status: str) -> None:
        if not trainer.is_global_zero or not self._facts:
            return
        self._facts = self._facts | {"status": status, "ended": _now(), "step": trainer.global_step}
        _write(Path(trainer.default_root_dir) / FILE, self._facts)


def record_end(run: Path, status: str) -> None:
    """For a process that leaves in the midst of a fit: `status` in the folder's run.json, unless the run finished."""
    facts = _read(run / FILE)
    if facts and facts.get("status") != "finished":
        _write(run / FILE, facts | {"status": status, "ended": _now()})


def _tell(logger: Logger, run: Path, facts: dict[str, Any]) -> None:
    """A wandb logger, told by its class's name, so that wandb is not imported here."""
    if "WandbLogger" not in {base.__name__ for base in type(logger).__mro__}:
        return
    from omegaconf import OmegaConf

    file = run / "config.yaml"
    config: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False) if file.is_file() else {}
    logger.log_hyperparams({**config, "run": facts})


def _read(path: Path) -> dict[str, Any]:
    """What an earlier start wrote; {} where there is nothing, or what a full disk left."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, facts: dict[str, Any]) -> None:
    with where_there_is_room(path):
        write_whole(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _text(value: object) -> str | None:
    return None if value is None else str(value)
