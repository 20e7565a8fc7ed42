"""`python eval.py`, `maskcap eval`: a run's model on any split, by the same validation as in training."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.cli.launch import launch
from maskcap.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import lightning
    from omegaconf import DictConfig

    from maskcap.metrics.prediction import Prediction

log = logging.getLogger(__name__)

_TRAINING_ONLY = ("checkpoint", "lr_monitor")  # callbacks without a use here


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to sys.argv[1:]."""
    launch(run, "eval", arguments)


def run(config: DictConfig) -> float | None:
    """Evaluate `checkpoint` in the folder `paths.run`; returns the run's `optimized_metric` on this split.

    Writes metrics.json, predictions.jsonl, config.yaml and samples/. Raises ConfigError, CheckpointError, DataError.
    """
    from maskcap.cli.build import checkpoint_file, clear_errors, make_trainer, quiet_lightning, save_config
    from maskcap.cli.train import TRAIN_SCHEMA
    from maskcap.config import check_config, require_values

    require_values(config)
    checkpoint = checkpoint_file(config.checkpoint, config.paths.runs)
    merged = merge(_run_config(checkpoint), config)
    checked = check_config(merged, TRAIN_SCHEMA)
    folder = Path(checked["paths"]["run"])

    import lightning

    with quiet_lightning(), clear_errors(checkpoint):
        save_config(merged, folder)
        lightning.seed_everything(checked["seed"], workers=True)
        data, module = checked.build("data"), checked.build("module")
        trainer = make_trainer(checked, folder)
        trainer.validate(module, datamodule=data, ckpt_path=str(checkpoint), verbose=False, weights_only=True)
        return _report(trainer, module.val_predictions, folder, checked["optimized_metric"])


def merge(trained: DictConfig, given: DictConfig) -> DictConfig:
    """The run's configuration with what eval was given: data, split, trainer, callbacks, paths.

    Raises ConfigError when the data has no splits to choose from.
    """
    from omegaconf import OmegaConf

    merged: Any = OmegaConf.create(OmegaConf.to_container(trained, resolve=False))  # type: ignore[arg-type]
    wanted: Any = OmegaConf.to_container(given, resolve=False)
    data = {key: value for key, value in (wanted["data"] or {}).items() if value is not None}
    callbacks = {key: node for key, node in merged.callbacks.items() if key not in _TRAINING_ONLY}
    if "_target_" in data:
        merged.data = data
        callbacks.pop("scene_probes", None)
    else:
        merged.data = OmegaConf.merge(merged.data, data)
    if wanted["split"] is not None:
        if "val_split" not in merged.data:
            raise ConfigError(f"split={wanted['split']}: this data has no `val_split` to set (see conf/data)")
        merged["data"]["val_split"] = wanted["split"]
    merged.callbacks = callbacks | wanted["callbacks"]
    merged.logger = {}
    one_device = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    merged.trainer = wanted["trainer"] or OmegaConf.merge(merged.trainer, one_device)
    merged.paths = wanted["paths"] | {"run": str(given.paths.run)}
    # Not the run's own list: a run folder from elsewhere must not say which packages to trust.
    merged.trusted_targets = wanted["trusted_targets"]
    merged.checkpoint = wanted["checkpoint"]
    return merged


def _run_config(checkpoint: Path) -> DictConfig:
    """`config.yaml` of the run that wrote the checkpoint, in a folder above it."""
    from omegaconf import DictConfig, OmegaConf

    for folder in list(checkpoint.resolve().parents)[:3]:
        if (folder / "config.yaml").is_file():
            loaded = OmegaConf.load(folder / "config.yaml")
            if isinstance(loaded, DictConfig) and all(key in loaded for key in ("data", "module", "paths")):
                return loaded
            raise CheckpointError(f"{folder / 'config.yaml'} is not the configuration of a training run")
    raise CheckpointError(
        f"{checkpoint} has no config.yaml beside it or in the folder above: keep a checkpoint in its run's folder"
    )


def _report(
    trainer: lightning.Trainer, predictions: Iterable[Prediction], folder: Path, metric: str | None
) -> float | None:
    from maskcap.training.callbacks.metrics_file import write_metrics

    values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if name.startswith("val/")}
    if trainer.is_global_zero:
        if not (folder / "metrics.json").is_file():
            write_metrics(values, folder / "metrics.json")
        lines = [prediction.to_json() for prediction in predictions]
        (folder / "predictions.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        width = max(map(len, values), default=0)
        log.info("%s\n%s", folder, "\n".join(f"  {name:<{width}}  {value:.4f}" for name, value in values.items()))
    return values.get(metric) if metric is not None else None
