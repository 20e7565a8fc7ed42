"""`trainer.find_batch_size=true`: the largest batch that fits is found before step 0, and used."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from maskcap.data.batch import Batch, normalise
from maskcap.data.datamodule import MaskCaptionDataModule
from maskcap.durable import where_there_is_room, write_whole
from maskcap.errors import ConfigError, OutOfMemory
from maskcap.loops.base import Curriculum
from maskcap.training.faults.gradients import take_gradients
from maskcap.training.faults.memory import describe, is_out_of_memory, peak_memory
from maskcap.training.ranks import gather_objects, world_size
from maskcap.training.strategies import is_sharded
from maskcap.training.worst_batch import worst_batches

log = logging.getLogger(__name__)

FILE = "batch_size.json"
_COPIES = 3  # of the trained weights that a fit holds beside gradients: AdamW's two, DDP's buckets


class BatchSizeSearch(pl.Callback):
    """Tries forward and backward of the worst batches of the records that it looks at (see `worst_batches`: the most
    regions, the most frames, the longest conversation), at the end of the curriculum. `data.batch_size` is doubled
    while all of them fit, or halved until they do.

    Weights, loops, random numbers and optimizer are as if nothing had been tried; all ranks take the smallest one's
    size. The learning rate is not changed. The size is kept in `<run folder>/batch_size.json`, and a run that goes on
    in its folder (`checkpoint` is given) takes that one. Raises OutOfMemory, with the sample named, when a batch of one
    does not fit, and ConfigError for sharded weights, which only a fit shares out.
    """

    def __init__(self, enabled: bool = False, checkpoint: str | None = None) -> None:
        self._enabled = enabled
        self._resumes = checkpoint is not None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Before the loaders are made, and the number of steps is known."""
        if not self._enabled or stage != "fit":
            return
        if is_sharded(trainer):
            raise ConfigError(
                "trainer.find_batch_size=true does not go with sharded weights (FSDP), which are whole before the fit: "
                "set data.batch_size"
            )
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, MaskCaptionDataModule):
            raise ConfigError("trainer.find_batch_size=true needs data of maskcap's own data module, which it asks")
        file = Path(trainer.default_root_dir) / FILE
        known = gather_objects(_known_size(file) if self._resumes and trainer.is_global_zero else None)[0]
        if known is not None:
            log.info("find_batch_size: %d images on each rank, as %s says; remove it to search anew", known, file)
            data.batch_size = known
            return
        pl_module.to(trainer.strategy.root_device)
        before = {name: loop.state_dict() for name, loop in pl_module.loops.items()}
        with isolate_rng():
            found, failed = self._search(trainer, pl_module, data)
        for name, loop in pl_module.loops.items():
            loop.load_state_dict(before[name])  # a frozen copy of untrained weights must not outlive the search
        for text in gather_objects(failed):
            if text is not None:
                raise OutOfMemory(text)
        size = min(gather_objects(found))
        log.info("find_batch_size: %d images on each rank fit (data.batch_size was %d)", size, data.batch_size)
        data.batch_size = size
        if trainer.is_global_zero:
            with where_there_is_room(file):
                write_whole(file, json.dumps({"batch_size": size, "processes": world_size()}) + "\n")

    def _search(self, trainer: pl.Trainer, module: Any, data: MaskCaptionDataModule) -> tuple[int, str | None]:
        """This rank's size, and what to say where even one image does not fit."""
        worst = worst_batches(data)
        whole = data.samples_per_epoch or sum(len(source) for source in data.train_sources.values())

        def fits(size: int) -> bool:
            """Tried."""
            return all(_fits(trainer, module, batch(size)) for batch in worst)

        found = largest(fits, data.batch_size, max(1, whole // world_size()))
        if found:
            return found, None
        too_large = next((batch(1) for batch in worst if not _fits(trainer, module, batch(1))), worst[0](1))
        return 0, f"out of memory ({peak_memory()}) already {describe(too_large)}: lower data.image_size or regions"


def _known_size(file: Path) -> int | None:
    """The size that an earlier start found; None where there is none, or what a crash left."""
    try:
        size = json.loads(file.read_text(encoding="utf-8"))["batch_size"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return size if isinstance(size, int) and size > 0 else None


def largest(fits: Callable[[int], bool], start: int, most: int) -> int:
    """The size that fits, by doubling `start` up to `most`, or halving it; 0: not even one does."""
    size = min(start, most)
    if fits(size):
        while size * 2 <= most and fits(size * 2):
            size *= 2
        return size
    while size > 1:
        size //= 2
        if fits(size):
            return size
    return 0


def _fits(trainer: pl.Trainer, module: Any, batch: Batch) -> bool:
    """Whether a step's forward and backward go through, beside what a fit holds."""
    device = trainer.strategy.root_device
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    held: list[torch.Tensor] = []
    try:
        held += [torch.empty_like(parameter) for parameter in parameters for _ in range(_COPIES)]
        there = normalise(batch.to(device))
        context = replace(module.step_context(there), progress=1.0, curriculum=Curriculum())
        with trainer.precision_plugin.train_step_context():
            total, _ = module.step_losses(there, context)
        total.backward()
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        take_gradients(parameters)
        held.clear()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
