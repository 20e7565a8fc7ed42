"""How fast a run is, and how much of the machine it uses: regions/s, tokens/s, padding, waiting, memory, MFU."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from maskcap.errors import ConfigError
from maskcap.training.flops import UnitFlops, step_flops, unit_flops
from maskcap.training.peak_flops import peak_flops as known_peak_flops
from maskcap.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from maskcap.models.work import Work

log = logging.getLogger(__name__)

_MAIN = ("regions_per_s", "mfu")  # also for the progress bar
_MEANS = ("padding_share", "data_wait_share", "mfu")  # over ranks; rates are summed
_MEMORY = "peak_memory_gib"  # the largest of all ranks


class Throughput(pl.Callback):
    """Logs `throughput/…` every `every` optimiser steps, over the batches since the last time:

    regions_per_s, images_per_s  of the batches, padding and images that no loop learned from left out
    tokens_per_s                 real tokens that the language model read; readings without gradient, the cycle's
                                 rollouts say, are left out here and in MFU
    padding_share                1 - tokens / slots, of the language model's rows
    data_wait_share              share of the window between the end of a batch and the start of the next: fetching it
                                 and handing it to the device, but also what other callbacks and loggers do after a
                                 batch, and at an epoch's turn the loader's restart. By the host's clock: on a GPU, what
                                 is hidden behind queued work is in it, so that it is an upper bound
    peak_memory_gib              CUDA: `torch.cuda.max_memory_allocated`; otherwise the process's largest resident set
                                 (without its workers); both since the process began, validation included
    tflops_per_s, mfu            model FLOPs (see `flops.py`) a second, and as a share of the device's peak

    The first `warmup` batches (compiling, first allocations), validation and checkpoints are in no window; what remains
    at the end of a fit is reported where nothing was before. Waits for the device once a report. Ranks are taken as
    data-parallel: rates are summed over them, shares are means. The loggers get all values, progress bars regions_per_s
    and mfu.

    What a module or its batches do not tell is left out: regions and images come from a `Batch`; tokens and FLOPs from
    `pl_module.last_work` (a `Work`, set by every training step) and `pl_module.model`. What trains is looked at once,
    when the fit is set up.

    peak_flops: of one device in FLOP/s, 1 or more; None takes it from `peak_flops.py`, and on a device that is not in
    its table (a CPU) there is no mfu. clock: seconds, for tests. Raises ConfigError for numbers out of range.
    """

    def __init__(
        self,
        every: int = 50,
        warmup: int = 2,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value, least in (("every", every, 1), ("warmup", warmup, 0), ("peak_flops", peak_flops, 1)):
            if value is not None and value < least:
                raise ConfigError(f"callbacks.throughput.{name}={value}: must be {least} or more")
        self.every = every
        self.warmup = warmup
        self.peak_flops = peak_flops
        self._clock = clock
        self._units: UnitFlops | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Counts the model's FLOPs, before a strategy wraps or shards it."""
        if stage == "fit":
            self._units = _units_of(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets an earlier fit."""
        device = pl_module.device
        self._stopwatch = Stopwatch(device, self._clock)
        self._window = Window()
        self._batches = 0
        self._running = False
        self._ended = self._gap = 0.0  # when the last batch ended, and how long the current one was waited for
        self._reported = trainer.global_step
        self._said = False  # anything, in this fit
        self._peak = self.peak_flops or _known_peak(device, str(trainer.precision))
        if self._units is not None and self._peak is None and trainer.is_global_zero:
            name = _device_name(device)
            log.info("no MFU: the peak FLOP/s of %s is not known; set callbacks.throughput.peak_flops", name)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The wait ends; after a warm-up or an interruption, a stretch of the window begins."""
        if self._running:
            self._gap = self._clock() - self._ended
        elif self._batches >= self.warmup:
            self._running, self._gap = True, 0.0
            self._stopwatch.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch; reports when a window is full."""
        self._batches += 1
        step = trainer.global_step  # stands still while gradients accumulate
        due = step != self._reported and step % self.every == 0
        self._reported = step if due else self._reported
        if not self._running:  # warm-up, or a checkpoint was written before this hook
            return
        self._stopwatch.mark()
        self._ended = self._clock()
        images = getattr(pl_module, "last_images", None)
        self._window.add(batch, getattr(pl_module, "last_work", None), self._units, self._gap, images)
        if due:
            self._report(trainer, pl_module)
            self._ended = self._clock()  # what the report took is nobody's wait

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run too short for a single window reports what it has."""
        self._interrupt()
        if not self._said and self._window.seconds > 0:
            self._report(trainer, pl_module, over=True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The window stops at the last batch's end and goes on with the next."""
        self._interrupt()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """As for validation; nothing is added to the checkpoint."""
        self._interrupt()

    def _interrupt(self) -> None:
        if getattr(self, "_running", False):
            self._window.seconds += self._stopwatch.read()
            self._running = False

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule, over: bool = False) -> None:
        """over: the fit is, and takes nothing for its progress bar any more."""
        self._said = True
        if self._running:
            self._window.seconds += self._stopwatch.read()
        values = summarise(self._window, self._peak, peak_memory_gib(pl_module.device))
        if trainer.world_size > 1:
            values = _over_ranks(values, trainer.strategy, pl_module.device)
        known = {f"throughput/{name}": value for name, value in values.items() if not math.isnan(value)}
        # Straight to the loggers: `pl_module.log` would write only at multiples of the trainer's log_every_n_steps, and
        # there the last window's values again and again.
        for logger in trainer.loggers:
            logger.log_metrics(known, step=trainer.global_step - 1)  # Lightning's own rows count from 0
        for name in _MAIN:
            if not over and (value := known.get(f"throughput/{name}")) is not None:
                pl_module.log(f"throughput/{name}", value, prog_bar=True, logger=False, on_step=True, on_epoch=False)
        self._window = Window()
        self._stopwatch.start()


@dataclass
class Window:
    """Sums over batches, NaN where one did not tell. seconds: of the stretches that have ended; waited: see
    `Throughput`'s data_wait_share."""

    seconds: float = 0.0
    waited: float = 0.0
    regions: float = 0.0
    images: float = 0.0
    tokens: float = 0.0
    slots: float = 0.0
    flops: float = 0.0

    def add(
        self,
        batch: Any,
        work: Work | None,
        units: UnitFlops | None,
        waited: float,
        images: Sequence[int] | None = None,
    ) -> None:
        """Count one batch, waited for so many seconds; of one that only fills a rank's place the seconds alone.

        images: those that the step learned from, None: all.
        """
        self.waited += waited
        if getattr(batch, "all_padding", False):
            return
        regions, count = batch_size(batch, images)
        self.regions += regions
        self.images += count
        self.tokens += math.nan if work is None else work.tokens
        self.slots += math.nan if work is None else work.slots
        self.flops += math.nan if work is None or units is None else step_flops(units, work).total


def batch_size(batch: Any, images: Sequence[int] | None = None) -> tuple[float, float]:
    """Regions and images (every frame of a video is one, a text without an image none) of a `Batch`, of these samples
    or of all, 0 where it is padding; NaN of anything else."""
    if not hasattr(batch, "region_ids") or not hasattr(batch, "keys"):
        return math.nan, math.nan
    if batch.all_padding:
        return 0, 0
    used = set(range(len(batch.keys)) if images is None else images)
    regions = batch.images_of(range(len(batch.region_ids)))
    shown = sum(not batch.is_blank(image) for image in used) + sum(owner in used for owner in batch.frame_owner)
    return sum(owner in used for owner in regions), shown


def summarise(window: Window, peak_flops: float | None, memory_gib: float) -> dict[str, float]:
    """A rank's values by name, see `Throughput`; NaN for those that are not known, shares as 0..1."""
    seconds = window.seconds or math.nan
    flops_per_s = window.flops / seconds
    return {
        "regions_per_s": window.regions / seconds,
        "images_per_s": window.images / seconds,
        "tokens_per_s": window.tokens / seconds,
        "padding_share": 1 - window.tokens / window.slots if window.slots else math.nan,
        "data_wait_share": window.waited / seconds,
        _MEMORY: memory_gib,
        "tflops_per_s": flops_per_s / 1e12,
        "mfu": math.nan if peak_flops is None else flops_per_s / peak_flops,
    }


def peak_memory_gib(device: torch.device) -> float:
    """GiB since the process began: CUDA's allocated maximum, for other devices the process's largest resident set;
    NaN where the system does not tell (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return math.nan
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB on Linux


def _over_ranks(values: Mapping[str, float], strategy: Any, device: torch.device) -> dict[str, float]:
    """Sums, means or the maximum; every rank must call it at the same step. NaN on one rank is NaN on all."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    summed = strategy.reduce(torch.tensor(list(values.values()), dtype=dtype, device=device), reduce_op="sum").tolist()
    largest = strategy.reduce(torch.tensor(values[_MEMORY], dtype=dtype, device=device), reduce_op="max").item()
    ranks = strategy.world_size
    reduced = {name: total / ranks if name in _MEANS else total for name, total in zip(values, summed, strict=True)}
    return reduced | {_MEMORY: largest}


def _units_of(pl_module: pl.LightningModule) -> UnitFlops | None:
    from maskcap.models.mask_caption import MaskCaptionModel

    model = getattr(pl_module, "model", None)
    if not isinstance(model, MaskCaptionModel):
        return None
    try:
        return unit_flops(model)
    except Exception as error:  # a vision-language model of the user's own may not run on meta tensors
        log.warning("no FLOPs and no MFU: they cannot be counted (%s: %s)", type(error).__name__, error)
        return None


def _known_peak(device: torch.device, precision: str) -> float | None:
    tf32 = torch.get_float32_matmul_precision() != "highest"
    return known_peak_flops(_device_name(device), precision, tf32)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
