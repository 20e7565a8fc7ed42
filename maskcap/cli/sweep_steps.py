"""The settings of a sweep: a validation each, again with half the batch where memory runs out, then their latencies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.cli.build import make_trainer
from maskcap.config import CheckedConfig
from maskcap.models.component_times import ImageCase
from maskcap.models.latency_turns import first_line, is_out_of_memory, release_memory, time_in_turns
from maskcap.training.callbacks.seen_images import SeenImages

if TYPE_CHECKING:
    from maskcap.cli.tokens_sweep import Setting
    from maskcap.data.datamodule import MaskCaptionDataModule
    from maskcap.training.module import MaskCaptionModule

log = logging.getLogger(__name__)

Row = dict[str, Any]  # of sweep.json
_UNTIMED = "memory ran out for a single image: no latency"


@dataclass(frozen=True)
class Steps:
    """What every setting shares: the run's configuration, its checkpoint, the folder, and how latencies are measured
    (see `time_in_turns`) on how many images."""

    config: CheckedConfig
    checkpoint: Path
    folder: Path
    images: int
    rounds: int
    new_tokens: int


def evaluate_settings(
    steps: Steps, data: MaskCaptionDataModule, module: MaskCaptionModule, settings: Sequence[Setting]
) -> list[Row]:
    """A row for each setting, as `sweep.json` holds it; each begins with the batch size that is configured."""
    configured, seen = data.val_batch_size, SeenImages(steps.images)
    rows, cases = [], []
    for number, setting in enumerate(settings, start=1):
        log.info("setting %d of %d: %s", number, len(settings), setting.name)
        module.model.set_vision_tokens(setting.vision_tokens)
        rows.append(_evaluate(steps, data, module, setting, seen))
        data.val_batch_size = configured
        cases = cases or seen.cases
    measured = [(setting, row) for setting, row in zip(settings, rows, strict=True) if row["batch_size"] is not None]
    _time(steps, module, measured, cases)
    return rows


def _evaluate(
    steps: Steps, data: MaskCaptionDataModule, module: MaskCaptionModule, setting: Setting, seen: SeenImages
) -> Row:
    tried: list[int] = []
    while True:
        batch_size = data.val_batch_size
        tried.append(batch_size)
        try:
            return _row(setting, tried) | _validate(steps, data, module, seen)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            lack = first_line(error)
        release_memory()  # here, where the error no longer holds what its frames hold
        if batch_size == 1:
            log.warning("%s: memory ran out with one image a batch (%s); it is left out", setting.name, lack)
            return _row(setting, tried) | {"batch_size": None, "note": f"memory ran out with one image a batch: {lack}"}
        data.val_batch_size = batch_size // 2
        log.warning(
            "%s: memory ran out with %d images a batch (%s); again with %d",
            setting.name, batch_size, lack, batch_size // 2,
        )  # fmt: skip


def _row(setting: Setting, tried: Sequence[int]) -> Row:
    """What is known before the validation."""
    sizes = " → ".join(map(str, tried))
    return {
        "name": setting.name,
        "max_crops": getattr(setting.vision_tokens, "max_crops", None),
        "vision_tokens": getattr(setting.vision_tokens, "vision_tokens", None),
        "alpha": getattr(setting.vision_tokens, "alpha", None),
        "slots": None,
        "tokens": None,
        "tilings": {},
        "scores": {},
        "ms": None,
        "batch_size": tried[-1],
        "tried_batch_sizes": list(tried),
        "note": f"memory ran out, batch size {sizes}" if len(tried) > 1 else "",
    }


def _validate(steps: Steps, data: MaskCaptionDataModule, module: MaskCaptionModule, seen: SeenImages) -> Row:
    """Scores and costs of the model as it is set; by a trainer of its own, since a failed one is spent."""
    trainer = make_trainer(steps.config, steps.folder)
    trainer.callbacks.append(seen)  # type: ignore[attr-defined]
    trainer.validate(module, datamodule=data, ckpt_path=str(steps.checkpoint), verbose=False, weights_only=True)
    metrics = sorted(trainer.callback_metrics.items())
    slots, tokens = seen.mean_costs(module.model)
    return {
        "slots": slots,
        "tokens": tokens,
        "tilings": {f"{rows}x{columns}": count for (rows, columns), count in sorted(seen.tilings.items()) if rows},
        "scores": {name.removeprefix("val/"): float(value) for name, value in metrics if name.startswith("val/")},
    }


def _time(
    steps: Steps, module: MaskCaptionModule, measured: Sequence[tuple[Setting, Row]], cases: Sequence[ImageCase]
) -> None:
    """Fill in every row's `ms`, in the trainer's precision and on its device."""
    trainer = make_trainer(steps.config, steps.folder)
    device = trainer.strategy.root_device
    module.to(device).eval()
    turns = {setting.name: (setting.vision_tokens, cases) for setting, _ in measured}
    with trainer.precision_plugin.forward_context():
        times = time_in_turns(module.model, device, turns, rounds=steps.rounds, new_tokens=steps.new_tokens)
    for setting, row in measured:
        row["ms"] = times.get(setting.name)
        if row["ms"] is None:
            row["note"] = "; ".join(note for note in (row["note"], _UNTIMED) if note)
