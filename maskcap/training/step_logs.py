"""What a training step logs: train/loss and every loop's parts; with several ranks, those of the global batch."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
import torch

from maskcap.loops.global_batch import gather_logs
from maskcap.loops.outputs import LoopOutput
from maskcap.training.entry_losses import EntryLosses
from maskcap.training.ranks import sum_over_ranks, world_size


def log_step(
    module: L.LightningModule,
    outputs: Mapping[str, LoopOutput],
    total: torch.Tensor,
    size: int,
    padding: bool = False,
    entry_losses: EntryLosses | None = None,
) -> None:
    """Logs train/<loop>/<part>, train/source/<entry> and train/loss, the same on every rank; every rank must call it.

    size: images of this rank's batch. padding: they count nothing. entry_losses: gathers those of the mixture's
    entries, which are means over the steps since the loggers last wrote. With several ranks the parts are logged at the
    steps alone that the loggers write down: they are gathered by name, since a rank without phrases has none of theirs.
    """
    if entry_losses is not None:
        entry_losses.add({} if padding else outputs)
        write_entries(module.trainer, entry_losses)
    if world_size() == 1:
        for name, output in outputs.items():
            for part, value in output.logs.items():
                module.log(f"train/{name}/{part}", value, prog_bar=part == "loss", batch_size=size)
    elif writes_down(module.trainer):
        for name, value in gather_logs(outputs, padding).items():
            module.log(f"train/{name}", value, prog_bar=name.endswith("/loss"), batch_size=size)
    module.log("train/loss", sum_over_ranks(total.detach()) / world_size(), batch_size=size)


def write_entries(trainer: L.Trainer, entry_losses: EntryLosses) -> None:
    """At the steps that the loggers write down: `train/source/<entry>`; every rank must call it.

    Past Lightning's own logging, which writes a value again at every step until there is a new one.
    """
    loop = trainer.fit_loop.epoch_loop
    if not writes_down(trainer) or loop._should_accumulate():
        return
    values = {f"train/{name}": value for name, value in entry_losses.take().items()}
    for logger in trainer.loggers if values else ():
        logger.log_metrics(values, step=loop._batches_that_stepped)


def writes_down(trainer: L.Trainer) -> bool:
    """Whether the loggers take this training step; alike on all ranks."""
    steps = trainer.fit_loop.epoch_loop._batches_that_stepped  # what Lightning's own question goes by
    return (steps + 1) % max(1, trainer.log_every_n_steps) == 0  # type: ignore[attr-defined]
