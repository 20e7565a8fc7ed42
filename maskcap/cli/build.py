"""What train and eval share: Lightning without its noise, loggers, callbacks, the trainer, clear errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.config import CheckedConfig
from maskcap.errors import CheckpointError, ConfigError
from maskcap.signatures import did_you_mean

if TYPE_CHECKING:
    import lightning
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

# Lightning's hints that do not apply here; every other warning stays.
_NOISE = (
    r".*does not have many workers.*",  # the configuration decides; the demo decodes faster in the main process
    r".*`srun` command is available on your system.*",
    r".*exists and is not empty.*",  # a run folder that a resumed run continues, or that holds train.log
    r".*Experiment logs directory.*",
    r".*is smaller than the logging interval.*",
    r".*callbacks used to create the checkpoint need to be provided.*",  # evaluation needs no ModelCheckpoint
    r".*The dirpath has changed from.*",  # a resumed run has its own folder
    r"Grad strides do not match bucket view strides.*",  # DDP, of dimensions of size 1
    r".*treespec, LeafSpec.*",  # torch's deprecation, of Lightning's own code
)
_TALKERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.pytorch.accelerators.cuda",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",  # tells of a default at every save
    "lightning.fabric.utilities.seed",
    "lightning.fabric.utilities.distributed",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's tips and hardware lines are left out, its warnings stay (but for those listed above)."""
    levels = {name: logging.getLogger(name).level for name in _TALKERS}
    try:
        for name in _TALKERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for message in _NOISE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def build_run(
    composed: DictConfig, config: CheckedConfig, run: Path, *, setup: str | None = None
) -> tuple[Any, Any, lightning.Trainer]:
    """Data, module and trainer of a checked configuration, seeded; `composed` is what it was, for the run's folder.

    setup: the stage that the data is set up for at once, so that a wrong root is found before weights are loaded, or
        fetched. None: left to the trainer.
    Raises ConfigError when they do not go together, DataError, CheckpointError.
    """
    import lightning

    needs_own_format(config)
    save_config(composed, run)
    lightning.seed_everything(config["seed"], workers=True)
    data = config.build("data")
    if setup is not None:
        data.setup(setup)
    module = config.build("module")
    trainer = make_trainer(config, run)
    check_together(config, data, module, trainer)
    return data, module, trainer


def needs_own_format(config: CheckedConfig) -> None:
    """Raises ConfigError for batches that are made for other training code."""
    kind = config["data"].get("format", "maskcap")
    if kind != "maskcap":
        raise ConfigError(
            f"data.format={kind} makes the batches of other training code, which this model does not read: use "
            "data.format=maskcap here, and iterate the data module's loaders there"
        )


def make_trainer(config: CheckedConfig, run: Path, **extra: Any) -> lightning.Trainer:
    """The trainer of the configuration with its callbacks and loggers; `extra` goes to it too.

    Raises ConfigError when it would start processes by itself: under Hydra each would make a run folder of its own.
    """
    _check_processes(config["trainer"])
    callbacks = list(config.build("callbacks").values())
    loggers = list(config.build("logger").values()) if "logger" in config.values else []
    extra["plugins"] = [
        *(config["trainer"].get("plugins") or []),
        *extra.get("plugins", []),
        config.build("checkpoints"),
    ]
    return config.build("trainer", default_root_dir=str(run), callbacks=callbacks, logger=loggers or False, **extra)


def _check_processes(trainer: dict[str, Any]) -> None:
    started = "LOCAL_RANK" in os.environ or "SLURM_PROCID" in os.environ
    devices, nodes = trainer.get("devices", "auto"), trainer.get("num_nodes", 1)
    count = len(devices) if isinstance(devices, list) else devices
    if not started and (str(count) != "1" or nodes != 1):
        raise ConfigError(
            f"trainer.devices={devices} trainer.num_nodes={nodes} means several processes: start them with torchrun, "
            "for example `torchrun --nproc-per-node=8 train.py trainer=ddp …`, or use devices=1"
        )


def check_together(
    config: CheckedConfig, data: Any, module: lightning.LightningModule, trainer: lightning.Trainer
) -> None:
    """What only the built objects can tell.

    Raises ConfigError when `module.describe_sets` names no validation set of the data, and when the model has weights
    in half precision that the trainer's precision would multiply with float32.
    """
    import torch

    known = list(getattr(data, "val_names", []))
    for name in config["module"].get("describe_sets") or []:
        if known and name not in known:
            hint = did_you_mean(name, known) or "."
            raise ConfigError(f"module.describe_sets: no validation set {name!r}{hint} There are: {', '.join(known)}")
    if trainer.precision.endswith("-mixed"):
        return
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            kind, part = str(parameter.dtype).removeprefix("torch."), _part(name)
            raise ConfigError(
                f"{part}.dtype={kind} does not go with trainer.precision={trainer.precision} ({name} would meet "
                f"float32): trainer.precision=bf16-mixed, or {part}.dtype=float32"
            )


def _part(parameter: str) -> str:
    """The group of the configuration that a parameter of the module comes from."""
    return "segmenter" if parameter.startswith("model.segmenter.") else "model"


def save_config(config: DictConfig, run: Path) -> None:
    """`<run>/config.yaml`: the composed configuration, with the command line that made it as a comment."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only
    from omegaconf import OmegaConf

    if rank_zero_only.rank == 0:
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        text = OmegaConf.to_yaml(config)
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(f"# {command}\n{text}", encoding="utf-8")


@contextmanager
def clear_errors(checkpoint: Path | None = None, today: DictConfig | None = None) -> Iterator[None]:
    """What Lightning and torch raise for a user's mistake becomes a MaskcapError.

    A trainer that this machine cannot run, a metric that nothing logs: ConfigError. A checkpoint that is of another
    model or optimizer: CheckpointError, which names the keys of the configuration that differ from `today`'s.
    Everything else passes through.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from maskcap.cli.runs import of_another_run
    from maskcap.data.workers import named_worker_deaths

    try:
        with named_worker_deaths():  # torch's signal handler raises it wherever the main thread is
            yield
    except MisconfigurationException as error:
        message = " ".join(str(error).split())
        if "backend found" in message:
            cpu = "trainer.accelerator=cpu trainer.precision=32-true"
            message += f" trainer=cpu trains without one (in several ranks: {cpu})."
        raise ConfigError(message) from error
    except (RuntimeError, ValueError, KeyError) as error:
        marks = ("loading state_dict", "loaded state dict", "checkpoint contains only the model")
        if checkpoint is None or not any(mark in str(error) for mark in marks):
            raise
        raise CheckpointError(of_another_run(checkpoint, str(error), today)) from error
