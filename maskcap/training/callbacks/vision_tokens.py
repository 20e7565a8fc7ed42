"""Which tilings the images of a run took, in the log; see `vision_tokens/runtime.py`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl

from maskcap.data.batch import Batch
from maskcap.models.component_times import device_name
from maskcap.training.callbacks.image_counts import ImageCounts
from maskcap.vision_tokens.runtime import FloorState, RuntimeRule

log = logging.getLogger(__name__)

_NAMED = 8  # tilings in a line
Taken = Counter[tuple[tuple[int, int], FloorState]]


class VisionTokens(ImageCounts):
    """Logs a line at the end of each validation and of a fit: each tiling's share of the images, their mean tokens, and
    how many took more crops for `min_scale`, or stayed below it.

    Warns once where the latencies were measured on another device. With a single view it says nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._compared = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from here, and compares the device."""
        super().on_train_start(trainer, pl_module)
        self._compare_device(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from here, and compares the device."""
        super().on_validation_start(trainer, pl_module)
        self._compare_device(pl_module)

    def applies(self, module: Any) -> bool:
        """With crops."""
        return _rule(module) is not None

    def of_images(
        self, module: Any, batch: Batch, images: Sequence[int]
    ) -> Iterable[tuple[tuple[int, int], FloorState]]:
        """Each image's tiling, and how it stands to the floor."""
        return [module.model.tiling_rule.decide(*batch.sizes[image]) for image in images]

    def say(self, what: str, counted: Taken, module: Any) -> None:
        """The line."""
        log.info("%s", summary(what, counted, module.model.tiling_rule, module.model.vision_tokens.global_view))

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
