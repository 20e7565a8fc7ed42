"""The random number generators of every rank: of Python, numpy, torch and, where it is used, CUDA."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from maskcap.training.ranks import gather_objects, this_rank, world_size

log = logging.getLogger(__name__)


def random_state() -> dict[str, Any]:
    """This process's, as tensors and plain values, which load without running code."""
    version, numbers, spare = random.getstate()
    numpy: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = numpy
    state: dict[str, Any] = {
        "python": [version, torch.tensor(numbers, dtype=torch.int64), spare],
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Continue where `random_state` was taken; of CUDA only where this process uses it too."""
    version, numbers, spare = state["python"]
    random.setstate((version, tuple(numbers.tolist()), spare))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def gather_random_states() -> list[dict[str, Any]]:
    """Of each rank, by rank; every rank must call it."""
    return gather_objects(random_state())


def restore_random_states(states: Sequence[Mapping[str, Any]]) -> None:
    """This rank's own. With another number of ranks than then, a warning: the seeds stay as they are."""
    if len(states) == world_size():
        set_random_state(states[this_rank()])
    elif this_rank() == 0:
        log.warning(
            "the checkpoint is of %d ranks and this run has %d: random numbers (dropout) start from the seed again",
            len(states),
            world_size(),
        )
