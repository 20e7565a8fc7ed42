"""A step that does not fit the memory: recognised, and its batch named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch

from maskcap.data.batch import Batch
from maskcap.errors import OutOfMemory
from maskcap.training.ranks import this_rank

OnOutOfMemory: TypeAlias = Literal["raise", "split"]

_NAMED = 8  # samples that a message names
_GIB = 1 << 30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left for a tensor."""
    no_room = "can't allocate memory"  # torch's words on a CPU, of a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and no_room in str(error))


@contextmanager
def batch_named(batch: Batch | None) -> Iterator[None]:
    """Out of memory inside becomes an OutOfMemory that names the batch (None: it is not known), with the fix."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory on rank {this_rank()} ({peak_memory()}), {describe(batch)}: lower data.batch_size or "
            "data.regions_per_image, set mask_caption.activation_checkpointing, or module.on_out_of_memory=split"
        ) from error


def describe(batch: Batch | None) -> str:
    """A batch's samples with their sizes and numbers of regions, frames and turns, for a message."""
    if batch is None:
        return "outside of a batch"
    regions = Counter(batch.images_of(range(len(batch.region_ids))))
    frames = Counter(batch.frame_owner)
    samples = []
    for image, (key, (height, width)) in enumerate(zip(batch.keys, batch.sizes, strict=True)):
        size = "no image" if batch.is_blank(image) else f"{width}×{height} px"
        shown = f", {1 + frames[image]} frames" if frames[image] else ""
        talk = f", {len(batch.turns[image])} turns" if batch.turns and batch.turns[image] else ""
        samples.append(f"{key} ({size}, {regions[image]} regions{shown}{talk})")
    more = f" and {len(samples) - _NAMED} more" if len(samples) > _NAMED else ""
    height, width = batch.image1.shape[-2:]
    return (
        f"in a batch of {len(samples)} images at {width}×{height} px with {len(batch.region_ids)} regions: "
        + ", ".join(samples[:_NAMED])
        + more
    )


def peak_memory() -> str:
    """The most that this process has held, of the GPU where it uses one."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
        return f"peak {peak / _GIB:.1f} of {whole / _GIB:.1f} GiB of the GPU"
    import resource

    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20):.1f} GiB of the machine"
