"""Each training source's own loss, for the logs: `train/source/<entry of the mixture>`.

Shapes: E entries, L loops, K kinds of losses (text, mask).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from maskcap.loops.outputs import Kind, LoopOutput
from maskcap.training.ranks import sum_over_ranks, this_rank

KINDS: tuple[Kind, ...] = ("text", "mask")


class EntryLosses:
    """Sums of the losses since they were last written down, by entry, loop and kind; nothing waits for the device.

    weights: of the loops in the step's loss, by name. An entry's value is what the loss would be of its samples alone:
    the mean over its tokens plus that over its masks, of every loop, weighted. Without what compares samples (the
    contrast), and without the grounding map's losses. A loss that is not finite is not counted.
    """

    def __init__(self, entries: Sequence[str], weights: Mapping[str, float], device: torch.device) -> None:
        self.entries = list(entries)
        self.weights = dict(weights)
        self._sums_ELK2 = torch.zeros(len(self.entries), len(self.weights), len(KINDS), 2, device=device)

    def add(self, outputs: Mapping[str, LoopOutput]) -> None:
        """Adds one step's losses of this rank."""
        for place, name in enumerate(self.weights):
            for (entry, kind), (value, count) in (outputs[name].by_entry if name in outputs else {}).items():
                good = value.detach().isfinite()
                pair = torch.stack([torch.where(good, value.detach(), 0.0), good.to(value.dtype)]) * count
                self._sums_ELK2[self.entries.index(entry), place, KINDS.index(kind)] += pair.float()

    def take(self) -> dict[str, float]:
        """`source/<entry>` → its loss over all ranks, of the entries that came; starts over. Waits for the device;
        every rank must call it."""
        sums_ELK2 = sum_over_ranks(self._sums_ELK2).cpu().clone()
        self._sums_ELK2.zero_()
        means_ELK = sums_ELK2[..., 0] / sums_ELK2[..., 1].clamp_min(1)
        values_E = (means_ELK.sum(2) * torch.tensor(list(self.weights.values()))).sum(1).tolist()
        came_E = (sums_ELK2[..., 1].sum((1, 2)) > 0).tolist()
        return {
            f"source/{entry}": value for entry, value, came in zip(self.entries, values_E, came_E, strict=True) if came
        }

    def state_dict(self) -> dict[str, Any]:
        """All ranks' sums; every rank must call it."""
        sums_ELK2 = sum_over_ranks(self._sums_ELK2).cpu().clone()
        return {"entries": self.entries, "loops": list(self.weights), "sums": sums_ELK2}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from these sums, which rank 0 takes; with other entries or loops it starts over."""
        if state["entries"] == self.entries and state["loops"] == list(self.weights) and this_rank() == 0:
            self._sums_ELK2.copy_(state["sums"])
