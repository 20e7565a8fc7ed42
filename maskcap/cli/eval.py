"""`python eval.py`, `maskcap eval`: a run's model on any split, by the same validation as in training."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.cli.launch import launch
from maskcap.errors import ConfigError

if TYPE_CHECKING:
    import lightning
    from omegaconf import DictConfig

    from maskcap.metrics.prediction import Prediction

log = logging.getLogger(__name__)

_TRAINING_ONLY = ("checkpoint", "last", "lr_monitor", "pseudo_captions")  # callbacks without a use here
_LIMITS = ("limit_val_batches", "overfit_batches", "fast_dev_run")  # of a run that was cut short for a look
_CARRIED = ("image_size", "caption_choice", "phrase_choice", "val_caption_choice", "val_phrase_choice")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to sys.argv[1:]."""
    launch(run, "eval", arguments)


def run(config: DictConfig) -> float | None:
    """Evaluate `checkpoint` in the folder `paths.run`; returns the run's `optimized_metric` on this split.

    Writes metrics.json, predictions.jsonl, report.html, config.yaml and samples/. Raises ConfigError, CheckpointError,
    DataError.
    """
    from hydra.core.hydra_config import HydraConfig

    from maskcap.cli.build import build_run, clear_errors, quiet_lightning
    from maskcap.cli.from_shards import use_shards
    from maskcap.cli.runs import checkpoint_and_config
    from maskcap.cli.train import TRAIN_SCHEMA
    from maskcap.config import check_config, require_values

    if "_target_" in (config.data or {}):
        use_shards(config, training=False)
    require_values(config)
    checkpoint, trained = checkpoint_and_config(config.checkpoint, config.paths.runs)
    merged = merge(trained, config, HydraConfig.get().overrides.task)
    use_shards(merged, training=False)
    checked = check_config(merged, TRAIN_SCHEMA)
    folder = Path(checked["paths"]["run"])

    with quiet_lightning(), clear_errors(checkpoint):
        data, module, trainer = build_run(merged, checked, folder)
        trainer.validate(module, datamodule=data, ckpt_path=str(checkpoint), verbose=False, weights_only=True)
        return _report(trainer, module.val_predictions, folder, checked["optimized_metric"])


def merge(trained: DictConfig, given: DictConfig, overrides: Iterable[str] = ()) -> DictConfig:
    """The run's configuration with what eval was given: data, split, trainer, callbacks, vision tokens, paths.

    overrides: the command line, which tells an explicit `data.limit_val=null` from a value that was not given.
    Raises ConfigError when the data has no splits to choose from.
    """
    from omegaconf import OmegaConf

    merged: Any = OmegaConf.create(OmegaConf.to_container(trained, resolve=False))  # type: ignore[arg-type]
    wanted: Any = OmegaConf.to_container(given, resolve=False)
    keys = [match.group(1) for each in overrides if (match := re.match(r"\+*data\.([\w.@+-]+)=", each))]
    if "_target_" in (wanted["data"] or {}):
        merged.data = _other_data(merged.data, wanted["data"], keys)
        merged.module.describe_sets = None  # its names are the run's sets
        merged.callbacks.pop("scene_probes", None)
    else:
        merged.data.limit_val = None
        for key in keys:
            OmegaConf.update(merged.data, key, _at(wanted["data"], key), force_add=True)
    if wanted["split"] is not None:
        if "val_split" not in merged.data:
            raise ConfigError(f"split={wanted['split']}: this data has no `val_split` to set (see conf/data)")
        merged["data"]["val_split"] = wanted["split"]
    kept = {key: node for key, node in _plain(merged.callbacks).items() if key not in _TRAINING_ONLY}
    merged.callbacks = OmegaConf.merge(kept, wanted["callbacks"])
    merged.vision_tokens = _vision_tokens(merged.vision_tokens, wanted["vision_tokens"])
    merged.logger = {}
    merged.trainer = _trainer(merged.trainer, wanted["trainer"])
    merged.paths = wanted["paths"] | {"run": str(given.paths.run)}
    # Not the run's own list: a run folder from elsewhere must not say which packages to trust.
    merged.trusted_targets = wanted["trusted_targets"]
    merged.checkpoint = wanted["checkpoint"]
    merged.checkpoints = {"_target_": "maskcap.training.checkpoints.files.CheckpointFiles"}  # nothing is saved
    return merged


def _other_data(trained: DictConfig, data: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Another data set, read as the model was trained to: `_CARRIED` are the run's unless they were given."""
    data = {key: value for key, value in data.items() if value is not None or key in given}
    for key in _CARRIED:
        if key not in given:
            data.pop(key, None)
            if key in trained:
                data[key] = trained[key]
    return data


def _vision_tokens(trained: DictConfig, given: dict[str, Any]) -> Any:
    """`vision_tokens=…` replaces the run's; single values are set in the run's. Weights do not depend on them."""
    from omegaconf import OmegaConf

    return given if "_target_" in given else OmegaConf.merge(_plain(trained), given)


def _trainer(trained: DictConfig, given: dict[str, Any]) -> Any:
    """`trainer=…` replaces the run's; single values are set in the run's, on one device and without its limits."""
    from omegaconf import OmegaConf

    if "_target_" in given:
        return given
    kept = {key: value for key, value in _plain(trained).items() if key not in _LIMITS}
    return OmegaConf.merge(kept, {"devices": 1, "num_nodes": 1, "strategy": "auto"}, given)


def _plain(config: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=False)  # type: ignore[return-value]


def _at(values: Any, path: str) -> Any:
    for part in path.split("."):
        values = values[part]
    return values


def _report(
    trainer: lightning.Trainer, predictions: Iterable[Prediction], folder: Path, metric: str | None
) -> float | None:
    from maskcap.reports.html.page import write_report
    from maskcap.reports.html.runs import read_runs
    from maskcap.training.callbacks.metrics_file import write_metrics

    values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if name.startswith("val/")}
    if trainer.is_global_zero:
        if not (folder / "metrics.json").is_file():
            write_metrics(values, folder / "metrics.json")
        lines = [prediction.to_json() for prediction in predictions]
        (folder / "predictions.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        write_report(read_runs([folder]), folder / "report.html", f"{folder.name}: evaluation")
        width = max(map(len, values), default=0)
        log.info("%s\n%s", folder, "\n".join(f"  {name:<{width}}  {value:.4f}" for name, value in values.items()))
    return values.get(metric) if metric is not None else None
