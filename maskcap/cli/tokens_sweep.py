"""`maskcap tokens sweep`: one checkpoint's accuracy and latency over numbers of crops, of tokens, or over alpha."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.cli.launch import launch
from maskcap.config import CheckedConfig, Node, Schema
from maskcap.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from maskcap.vision_tokens.geometry import Geometry
    from maskcap.vision_tokens.settings import Tiling, VisionTokens

log = logging.getLogger(__name__)

_UNUSED = ("metrics_file", "pictures", "throughput")  # callbacks of a run that would write files, or measure otherwise
_OWN = ("crops", "tokens", "alphas", "baseline", "images", "rounds", "new_tokens", "trusted_targets")

SWEEP_SCHEMA: Schema = {
    "crops": list[int] | None,
    "tokens": list[int] | None,
    "alphas": list[float] | None,
    "baseline": bool,
    "images": int,
    "rounds": int,
    "new_tokens": int,
    "trusted_targets": list[str],
    "vision_tokens": Node(),
}


@dataclass(frozen=True)
class Setting:
    """One row of the sweep: what it is called, and what the model is set to."""

    name: str
    vision_tokens: VisionTokens


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to sys.argv[1:]."""
    launch(run, "tokens_sweep", arguments)


def run(config: DictConfig) -> None:
    """Evaluate `checkpoint` in every setting, in the folder `out` or `paths.run`: sweep.json, sweep.png.

    Raises ConfigError, also for tokens that are no whole crops, before anything is evaluated; CheckpointError,
    DataError.
    """
    from maskcap.cli.build import build_run, clear_errors, quiet_lightning
    from maskcap.cli.sweep_steps import Steps, evaluate_settings
    from maskcap.models.component_times import device_name, model_name
    from maskcap.reports.latency_tables import print_sweep
    from maskcap.reports.sweep import sweep_figure

    checked, own, merged, checkpoint = _configurations(config)
    folder = Path(config.out or checked["paths"]["run"])
    with quiet_lightning(), clear_errors(checkpoint):
        data, module, trainer = build_run(merged, checked, folder)
        settings = settings_of(own, module.model.vision_tokens, module.model.vlm)
        steps = Steps(checked, checkpoint, folder, own["images"], own["rounds"], own["new_tokens"])
        rows = evaluate_settings(steps, data, module, settings)
    device = device_name(trainer.strategy.root_device)
    content = {
        "checkpoint": str(checkpoint),
        "model": model_name(module.model),
        "device": device,
        "precision": checked["trainer"].get("precision", "32-true"),
        "new_tokens": own["new_tokens"],
        "timed_images": own["images"],
        "rounds": own["rounds"],
        "settings": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "sweep.json", folder / "sweep.png"
    files[0].write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sweep_figure(rows, own["new_tokens"], device).savefig(files[1])
    print_sweep(rows, own["new_tokens"], device, files)


def settings_of(own: CheckedConfig, trained: VisionTokens, vlm: Any) -> list[Setting]:
    """The checkpoint's own setting where a baseline is wanted, then one for each number. Raises ConfigError, also for
    what does not go with `vlm`."""
    found = [Setting("as trained", trained)] if own["baseline"] else []
    if own["alphas"]:
        return found + _of_alphas(own["alphas"], trained, vlm)
    return found + _of_crops(own, trained, vlm)


def _of_alphas(alphas: Sequence[float], trained: VisionTokens, vlm: Any) -> list[Setting]:
    """By the checkpoint's own method and levels where it has an alpha, else by `budget`."""
    from maskcap.models.mask_caption import check_goes_with
    from maskcap.vision_tokens.settings import Patches

    base = trained if isinstance(trained, Patches) and trained.method != "v1" else Patches(trained.pool)
    check_goes_with(vlm, base)
    return [Setting(f"{base.method} {alpha:g}", replace(base, alpha=alpha)) for alpha in dict.fromkeys(alphas)]


def _of_crops(own: CheckedConfig, trained: VisionTokens, vlm: Any) -> list[Setting]:
    base: Tiling = own.build("vision_tokens")
    base = replace(
        base,
        pool=trained.pool, exact_crops=None, vision_tokens=None, image_sizes=None, target_latency_ms=None,
        latency_table=None, min_scale=0.0,
    )  # fmt: skip
    found: list[Setting] = []
    of_crops: Geometry = vlm.geometry(base.margins)
    for number in dict.fromkeys(own["crops"] or []):
        found.append(Setting(f"{number} crop{'s' if number > 1 else ''}", replace(base, max_crops=number)))
    for number in dict.fromkeys(own["tokens"] or []):
        found.append(Setting(f"{number} tokens", replace(base, vision_tokens=number)))
    for setting in found:
        setting.vision_tokens.rule(of_crops)  # type: ignore[union-attr]
    return found


def _configurations(config: DictConfig) -> tuple[CheckedConfig, CheckedConfig, DictConfig, Path]:
    """The run's configuration, checked, and this command's own; the former composed; the checkpoint."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from maskcap.cli.eval import merge
    from maskcap.cli.from_shards import use_shards
    from maskcap.cli.runs import checkpoint_and_config
    from maskcap.cli.tokens_profile import tiling_of
    from maskcap.cli.train import TRAIN_SCHEMA
    from maskcap.config import check_config, require_values

    if "_target_" in (config.data or {}):
        use_shards(config, training=False)
    require_values(config)
    checkpoint, trained = checkpoint_and_config(config.checkpoint, config.paths.runs)
    overrides = HydraConfig.get().overrides.task
    beside = [each for each in overrides if each.lstrip("+~").startswith("vision_tokens")]
    if config.alphas and beside:
        raise ConfigError(f"{beside[0]} beside alphas: these are of the checkpoint's own patches, or of method budget")
    tiling = tiling_of(trained, config, overrides)
    own = check_config(OmegaConf.create({key: config[key] for key in _OWN} | {"vision_tokens": tiling}), SWEEP_SCHEMA)
    _check_own(own)
    merged = merge(trained, config, overrides)
    merged.vision_tokens = trained.vision_tokens  # of the baseline: the sweep's own are tried one by one
    for name in _UNUSED:
        merged.callbacks.pop(name, None)
    table = merged.vision_tokens.get("latency_table")
    if table is not None and not Path(table).is_file():
        log.warning("%s is gone: the checkpoint's own setting is measured without its target", table)
        merged.vision_tokens.update(target_latency_ms=None, latency_table=None)
    use_shards(merged, training=False)
    return check_config(merged, TRAIN_SCHEMA), own, merged, checkpoint


def _check_own(own: CheckedConfig) -> None:
    if sum(bool(own[name]) for name in ("crops", "tokens", "alphas")) != 1:
        raise ConfigError(
            "give crops=[1,2,4,6], tokens=[512,768], or alphas=[.3,.5,1]: the settings to compare (one of the three "
            "lists)"
        )
    for name, least in (("images", 1), ("rounds", 1), ("new_tokens", 2)):
        if own[name] < least:
            raise ConfigError(f"{name}={own[name]}: needs at least {least}")
    if not own["alphas"] and "margins" not in own["vision_tokens"]:
        raise ConfigError("vision_tokens: a single view has nothing to sweep; leave vision_tokens=tiling")
