"""What `Trainer.fit` adds to a training step: a fit and a plain loop over the same batches, taking turns."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from benchmarks.timing import Times, take_turns
from maskcap.cli.build import quiet_lightning
from maskcap.data.batch import Batch
from maskcap.loops.base import run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.callbacks.progress import RichBars
from maskcap.training.callbacks.throughput import Throughput
from maskcap.training.module import MaskCaptionModule
from maskcap.training.optimizers import AdamW

FIT, LOOP = "Trainer.fit", "plain loop"
CLIP = 1.0


@dataclass(frozen=True)
class ReadyBatches:
    """Batches in memory as a loader; Lightning would take a list for several loaders."""

    batches: Sequence[Batch]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class Stamps(L.Callback):
    """Processor time and clock at the start of every batch, in seconds."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, float]] = []

    def take(self) -> None:
        """Now."""
        self.taken.append((time.process_time(), time.perf_counter()))

    def on_train_batch_start(self, *arguments: object) -> None:
        """Before anything that the trainer does for a batch."""
        self.take()

    def mean(self) -> tuple[float, float]:
        """Seconds from one batch to the next, without the first, which makes the optimizer's state."""
        (first, first_clock), (last, last_clock) = self.taken[1], self.taken[-1]
        steps = len(self.taken) - 2
        return (last - first) / steps, (last_clock - first_clock) / steps


def measure_overhead(model: MaskCaptionModel, batch: Batch, rounds: int, steps: int) -> dict[str, Times]:
    """Seconds a step, one entry a round, each the mean over `steps` steps on the same ready batch.

    The fit is `python train.py`'s without validation, checkpoints and data: MaskCaptionModule, gradients clipped to a
    norm of 1, the scheduler, CSV and TensorBoard logs, the learning rates', the progress bar's (drawn as in a
    terminal) and the throughput callback. It reports, logs and writes every 10 steps; the defaults are 50, 10 and 50.
    The plain loop does the same arithmetic and nothing else.
    """
    loops = {"mask_to_caption": MaskToCaption(), "caption_to_mask": CaptionToMask()}
    module = MaskCaptionModule(model, loops, optimizer=AdamW(lr=1e-6))
    batches = [batch] * (steps + 2)
    found = {FIT: Times([], []), LOOP: Times([], [])}

    def keep(name: str, stamps: Stamps) -> None:
        processor, clock = stamps.mean()
        found[name].processor.append(processor)
        found[name].clock.append(clock)

    with tempfile.TemporaryDirectory(prefix="maskcap-step-") as folder, quiet_lightning():
        cases = {
            FIT: lambda: keep(FIT, fit(module, batches, Path(folder))),
            LOOP: lambda: keep(LOOP, plain_loop(module, batches)),
        }
        take_turns(cases, rounds)
    return {name: Times(times.processor[1:], times.clock[1:]) for name, times in found.items()}  # the first: a warm-up


def fit(module: MaskCaptionModule, batches: Sequence[Batch], folder: Path) -> Stamps:
    """One epoch over the batches."""
    stamps = Stamps()
    loggers: list[Logger] = [
        CSVLogger(folder, name="", version="", flush_logs_every_n_steps=10),
        TensorBoardLogger(folder, name="", version="tensorboard"),
    ]
    bars = RichBars(console_kwargs={"file": io.StringIO(), "force_terminal": True})
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        gradient_clip_val=CLIP,
        log_every_n_steps=10,
        limit_val_batches=0,
        callbacks=[stamps, LearningRateMonitor(logging_interval="step"), Throughput(every=10), bars],
        logger=loggers,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    # nothing is validated, but without a loader for it Lightning warns
    trainer.fit(module, ReadyBatches(batches), ReadyBatches(batches[:1]))
    return stamps


def plain_loop(module: MaskCaptionModule, batches: Sequence[Batch]) -> Stamps:
    """The same steps by hand."""
    stamps = Stamps()
    model, loops = module.model.train(), module.loops
    optimizer = module.optimizer_settings.build(model)
    scheduler = module.scheduler_settings.build(optimizer, len(batches))
    for batch in batches:
        stamps.take()
        outputs = run_loops(model, loops, batch, module.step_context(batch))
        loss = torch.stack([loops[name].weight * output.loss for name, output in outputs.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
    return stamps
