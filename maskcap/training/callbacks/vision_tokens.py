"""Which tilings the images of a run took, in the log; see `vision_tokens/runtime.py`."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch.distributed as dist

from maskcap.data.batch import Batch
from maskcap.models.component_times import device_name
from maskcap.vision_tokens.runtime import FloorState, RuntimeRule

log = logging.getLogger(__name__)

T = TypeVar("T")

_NAMED = 8  # tilings in a line
Taken = Counter[tuple[tuple[int, int], FloorState]]


class VisionTokens(pl.Callback):
    """Logs a line at the end of each validation and of a fit: each tiling's share of the images, their mean tokens, and
    how many took more crops for `min_scale`, or stayed below it.

    Counts the images of all ranks, those that only fill a batch left out; a fit's are those seen since it was started
    or resumed. Warns once where the latencies were measured on another device. With a single view it says nothing.
    """

    def __init__(self) -> None:
        self._fit: Taken = Counter()
        self._validation: Taken = Counter()
        self._compared = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from here."""
        self._fit.clear()
        self._compare_device(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch's images."""
        _count(self._fit, pl_module, batch)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from here."""
        self._validation.clear()
        self._compare_device(pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts the batch's images."""
        _count(self._validation, pl_module, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the validation's line."""
        if not trainer.sanity_checking:
            _say("validation", self._validation, trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the fit's line."""
        _say("training", self._fit, trainer, pl_module)

    def _compare_device(self, module: pl.LightningModule) -> None:
        rule = _rule(module)
        if self._compared or rule is None or rule.device is None:
            return
        self._compared = True
        here = device_name(module.device)
        if here != rule.device:
            log.warning("latency_table was measured on %s, this is %s: the target may not hold", rule.device, here)


def _rule(module: Any) -> RuntimeRule | None:
    return getattr(getattr(module, "model", None), "tiling_rule", None)


def _count(taken: Taken, module: pl.LightningModule, batch: Any) -> None:
    rule = _rule(module)
    if rule is not None and isinstance(batch, Batch):
        taken.update(rule.decide(*size) for image, size in enumerate(batch.sizes) if not batch.is_padding(image))


def _say(what: str, counted: Taken, trainer: pl.Trainer, module: Any) -> None:
    """Every rank must call it."""
    rule = _rule(module)
    if rule is None:
        return
    taken = of_all_ranks(counted)
    if taken and trainer.is_global_zero:
        log.info("%s", summary(what, taken, rule, module.model.vision_tokens.global_view))


def summary(what: str, taken: Taken, rule: RuntimeRule, global_view: bool = True) -> str:
    """`validation: 200 images, 62.0% of 2 × 2, …; mean 640 tokens (768 computed); …`; taken: not empty."""
    images = taken.total()
    tilings: Counter[tuple[int, int]] = Counter()
    for (tiling, _), count in taken.items():
        tilings[tiling] += count
    named = tilings.most_common(_NAMED)
    shares = [f"{count / images:.1%} of {rows} × {columns}" for (rows, columns), count in named]
    if rest := images - sum(count for _, count in named):
        shares.append(f"{rest / images:.1%} of {len(tilings) - len(named)} others")
    slots, kept = rule.geometry.mean_costs(tilings, global_view)
    line = f"{what}: {images} images, {', '.join(shares)} crops; mean {kept:.1f} tokens ({slots:.1f} computed)"
    if rule.min_scale:
        raised, short = (sum(n for (_, state), n in taken.items() if state == each) for each in ("raised", "short"))
        line += f"; {raised} raised to min_scale={rule.min_scale:g}, {short} below it with max_crops"
    return line


def of_all_ranks(counted: Counter[T]) -> Counter[T]:
    """The sum of every rank's counts; all of them must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return counted
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, counted)
    return sum(parts, Counter())
