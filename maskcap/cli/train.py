"""`python train.py`, `maskcap train`: compose, check, build, fit."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskcap.cli.launch import launch
from maskcap.config import CheckedConfig, Node, Nodes, Schema
from maskcap.errors import ConfigError
from maskcap.training.stop_signals import noted_stop_signals

if TYPE_CHECKING:
    import lightning
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

TRAIN_SCHEMA: Schema = {
    "name": str,
    "seed": int,
    "checkpoint": str | None,
    "optimized_metric": str | None,
    "trusted_targets": list[str],
    "overfit": {"images": int, "samples": int},
    "paths": {"data": str, "runs": str, "run": str},
    "data": Node(),
    "vision_tokens": Node(),
    "model": Node(),
    "segmenter": Node(),
    "mask_caption": Node(),
    "loops": Nodes(),
    "optimizer": Node(),
    "scheduler": Node(),
    "module": Node(),
    "trainer": Node(),
    "checkpoints": Node(),
    "callbacks": Nodes(),
    "logger": Nodes(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to sys.argv[1:]."""
    with noted_stop_signals():  # before anything heavy is imported: a warning can come at any time
        launch(run, "train", arguments)


def run(config: DictConfig) -> float | None:
    """Train once, in the folder `paths.run`; returns the last value of `optimized_metric`, None when it is null.

    Raises ConfigError before anything is built when the configuration is wrong; DataError, CheckpointError.
    """
    from maskcap.cli.from_shards import use_shards
    from maskcap.cli.slurm import go_on_if_requeued
    from maskcap.config import check_config
    from maskcap.training.run_folder import claimed_by_rank_0

    go_on_if_requeued(config)
    use_shards(config)
    checked = check_config(config, TRAIN_SCHEMA)
    folder = Path(checked["paths"]["run"])
    config.paths.run = str(folder)
    with noted_stop_signals(), claimed_by_rank_0(folder):  # signals: in a job of submitit's, `main` never ran
        return _train(config, checked, folder)


def _train(config: DictConfig, checked: CheckedConfig, folder: Path) -> float | None:
    from maskcap.cli.build import build_run, clear_errors, quiet_lightning
    from maskcap.cli.runs import resume_from, warn_of_changes

    resume = resume_from(checked["checkpoint"], folder, checked["paths"]["runs"])
    if resume is not None:
        warn_of_changes(resume, config)

    with quiet_lightning(), clear_errors(resume, config):
        early = "fit" if checked["data"].get("prepare") is None else None  # what prepare draws is not there yet
        data, module, trainer = build_run(config, checked, folder, setup=early)
        _say_what_trains(module, folder)
        _without_stop(trainer)
        trainer.fit(
            module, datamodule=data, ckpt_path=None if resume is None else str(resume), weights_only=resume is not None
        )
        if resume is not None and not trainer.callback_metrics:
            return _finished_before(resume, trainer, checked)
        return _metric(trainer, checked["optimized_metric"])


def _without_stop(trainer: lightning.Trainer) -> None:
    """`callbacks.stop=null`: signals end the process as they end any other."""
    from maskcap.training.callbacks.stop import StopAtStep
    from maskcap.training.lightning_loops import leave_signals_alone
    from maskcap.training.stop_signals import let_signals_act

    if not any(isinstance(callback, StopAtStep) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        leave_signals_alone(trainer)
        let_signals_act()


def _finished_before(resume: Path, trainer: lightning.Trainer, config: CheckedConfig) -> float | None:
    """A run that had nothing left to do: the metric that its folder holds with `checkpoint=auto`, else ConfigError."""
    message = f"{resume} is at the end of this run already (step {trainer.global_step})"
    if config["checkpoint"] != "auto":
        raise ConfigError(f"{message}: to train on, raise trainer.max_epochs")
    log.warning("%s: nothing was trained", message)
    metrics = Path(config["paths"]["run"]) / "metrics.json"
    name = config["optimized_metric"]
    return json.loads(metrics.read_text()).get(name) if name is not None and metrics.is_file() else None


def _say_what_trains(module: lightning.LightningModule, folder: Path) -> None:
    from maskcap.models.adapters import count_parameters

    every, trained = count_parameters(module)
    log.info("%.2f M parameters, %.2f M of them train; writing to %s", every / 1e6, trained / 1e6, folder)


def _metric(trainer: lightning.Trainer, name: str | None) -> float | None:
    if name is None:
        return None
    if name not in trainer.callback_metrics:
        there = ", ".join(sorted(trainer.callback_metrics)) or "none: no validation ran"
        raise ConfigError(f"optimized_metric={name} was never logged; there are: {there}")
    return float(trainer.callback_metrics[name])
