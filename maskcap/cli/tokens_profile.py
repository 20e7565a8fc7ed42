"""`maskcap tokens profile`: a model's latency for 1…N crops, as a table for `vision_tokens.target_latency_ms`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.cli.launch import launch
from maskcap.config import CheckedConfig, Node, Schema
from maskcap.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from maskcap.models.component_times import ImageCase
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.vision_tokens.geometry import Geometry
    from maskcap.vision_tokens.latency import LatencyTable
    from maskcap.vision_tokens.settings import Tiling

_OF_TRAINING = ("optimizer", "module")  # what conf/model brings for train.py
_IMAGE_SIZE = 1024  # where no run says
_OF_A_RUN = ("seed", "model", "segmenter", "mask_caption")  # of a checkpoint's configuration

PROFILE_SCHEMA: Schema = {
    "checkpoint": str | None,
    "out": str | None,
    "image_size": int | None,
    "new_tokens": int,
    "rounds": int,
    "device": str | None,
    "precision": str | None,
    "seed": int,
    "trusted_targets": list[str],
    "paths": {"data": str, "runs": str, "run": str},
    "vision_tokens": Node(),
    "model": Node(),
    "segmenter": Node(),
    "mask_caption": Node(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to sys.argv[1:]."""
    launch(run, "tokens_profile", arguments)


def run(config: DictConfig) -> None:
    """Measure, print the table and write it. Raises ConfigError, CheckpointError."""
    import torch

    from maskcap.reports.latency_tables import print_latencies
    from maskcap.vision_tokens.settings import Tiling

    checked = _checked(config)
    path = Path(checked["out"] or Path(checked["paths"]["run"]) / "latency.json")
    device = torch.device(checked["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(checked["seed"])
    model: MaskCaptionModel = checked.build("mask_caption")
    tiling = model.vision_tokens
    if not isinstance(tiling, Tiling):
        raise ConfigError(
            "vision_tokens: one view has one latency; vision_tokens=tiling has one for each number of crops"
        )
    model.eval().to(device)
    with autocast(model, device, checked["precision"]):
        table = profile(model, tiling, device, checked)
    table.save(path)
    print_latencies(table, path)


def profile(model: MaskCaptionModel, tiling: Tiling, device: torch.device, options: Any) -> LatencyTable:
    """Medians for 1…max_crops crops, each in its squarest tiling, over rounds that take turns.

    options: image_size (side of the image that the model is given, as data.image_size), new_tokens, rounds.
    """
    from maskcap.models.component_times import device_name, model_name
    from maskcap.models.latency_turns import time_in_turns
    from maskcap.vision_tokens.latency import LatencyRow, LatencyTable
    from maskcap.vision_tokens.tiling import tilings_of

    plain = replace(
        tiling, vision_tokens=None, image_sizes=None, target_latency_ms=None, latency_table=None, min_scale=0.0
    )
    geometry: Geometry = model.vlm.geometry(tiling.margins)  # type: ignore[operator,assignment]
    side, new_tokens = options["image_size"] or _IMAGE_SIZE, options["new_tokens"]
    squarest, turns = {}, {}
    for crops in range(1, tiling.max_crops + 1):
        squarest[crops] = min(tilings_of(crops), key=lambda each: abs(each[0] - each[1]))
        case = _case(side, geometry.canvas(*squarest[crops]), device)
        turns[crops] = replace(plain, exact_crops=crops), [case]
    times = time_in_turns(model, device, turns, rounds=options["rounds"], new_tokens=new_tokens)
    rows = []
    for crops, medians in times.items():
        (high, wide), total = squarest[crops], medians.pop("total")
        slots, kept = (cost(high, wide, tiling.global_view) for cost in (geometry.slots, geometry.kept))
        rows.append(LatencyRow(crops, high, wide, slots, kept, medians, total))
    if not rows:
        raise ConfigError("memory ran out for every number of crops: a smaller model, or another device")
    return LatencyTable(geometry, tiling.global_view, device_name(device), model_name(model), new_tokens, tuple(rows))


def autocast(model: MaskCaptionModel, device: torch.device, precision: str | None) -> torch.autocast:
    """What `trainer.precision` would do; None: bf16-mixed where weights are in half precision. Raises ConfigError."""
    import torch

    halves = any(weight.dtype in (torch.bfloat16, torch.float16) for weight in model.parameters())
    if precision == "32-true" and halves:
        raise ConfigError("precision=32-true: the model has weights in half precision; model.dtype=float32 has not")
    return torch.autocast(device.type, torch.bfloat16, enabled=halves or precision == "bf16-mixed")


def _case(side: int, size: tuple[int, int], device: torch.device) -> ImageCase:
    """Noise, and a region in its middle: what is in an image does not change its latency."""
    import torch

    from maskcap.models.component_times import ImageCase

    mask1 = torch.zeros(1, side, side, device=device)
    mask1[:, side // 4 : side // 2, side // 4 : side // 2] = 1
    return ImageCase(torch.randn(1, 3, side, side, device=device), mask1, size, "large red circle at the top left")


def _checked(config: DictConfig) -> CheckedConfig:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from maskcap.config import check_config

    values: Any = OmegaConf.to_container(config, resolve=False)
    values = {key: value for key, value in values.items() if key not in _OF_TRAINING}
    if config.checkpoint is not None:
        values = _as_trained(values, config, HydraConfig.get().overrides.task)
    whole: Any = OmegaConf.create(values)
    for key in ("target_latency_ms", "latency_table"):  # the table is what is made here
        if key in whole.vision_tokens:
            whole.vision_tokens[key] = None
    checked = check_config(whole, PROFILE_SCHEMA)
    for name, least in (("image_size", 1), ("new_tokens", 2), ("rounds", 1)):
        if checked[name] is not None and checked[name] < least:
            raise ConfigError(f"{name}={checked[name]}: needs at least {least}")
    if (precision := checked["precision"]) not in (None, "32-true", "bf16-mixed"):
        raise ConfigError(f"precision={precision}: take 32-true or bf16-mixed, or null for what the weights need")
    return checked


def _as_trained(values: dict[str, Any], config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The model, image size and precision of the checkpoint's run, and its tiling where it has one, but for what is
    given on the command line.

    Its weights are not read: they change no latency. Raises CheckpointError.
    """
    from omegaconf import OmegaConf

    from maskcap.cli.runs import checkpoint_and_config

    _, trained = checkpoint_and_config(config.checkpoint, config.paths.runs)
    whole: Any = OmegaConf.to_container(trained, resolve=False)
    merged: Any = OmegaConf.create(values | {key: whole[key] for key in _OF_A_RUN})
    merged.vision_tokens = tiling_of(trained, config, overrides)
    for key in _given(overrides, _OF_A_RUN):
        OmegaConf.update(merged, key, OmegaConf.select(config, key), force_add=True)
    merged.image_size = config.image_size or OmegaConf.select(trained, "data.image_size")
    if config.precision is None and OmegaConf.select(trained, "trainer.precision") == "bf16-mixed":
        merged.precision = "bf16-mixed"
    return OmegaConf.to_container(merged, resolve=False)  # type: ignore[return-value]


def tiling_of(trained: DictConfig, given: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """`vision_tokens` of a run that has crops, with what the command line gives of it; of another run, `given`'s."""
    from omegaconf import OmegaConf

    tiling: Any = OmegaConf.to_container(given.vision_tokens, resolve=False)
    run = trained.get("vision_tokens") or {}
    if "margins" not in run or "margins" not in tiling:
        return tiling
    merged = OmegaConf.create({"vision_tokens": tiling | OmegaConf.to_container(run, resolve=False)})  # type: ignore
    for key in _given(overrides, ("vision_tokens",)):
        OmegaConf.update(merged, key, OmegaConf.select(given, key), force_add=True)
    return OmegaConf.to_container(merged.vision_tokens, resolve=False)  # type: ignore[return-value]


def _given(overrides: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Keys inside these groups that the command line sets."""
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    return [key for key in keys if "." in key and key.partition(".")[0] in groups]
