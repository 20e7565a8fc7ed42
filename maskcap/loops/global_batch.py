"""The ranks' batches as one: every mean of a step is over all of them, and a phrase is told from everyone's regions.

Shapes: n regions of this rank, R of all ranks, K width of queries and keys, L loops.

Data-parallel training averages the ranks' gradients. A rank's mean over its own n of R regions therefore goes into its
loss times n·ranks/R, so that the average is the mean over all R: a batch of one rank and its halves on two ranks learn
the same. What each rank draws for itself (points, jitter, captions that are sampled) differs by design.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist

from maskcap.errors import OutOfMemory
from maskcap.loops.outputs import OVER, LoopOutput, Over, weighed
from maskcap.losses import phrase_contrast
from maskcap.models.transfer import to_device
from maskcap.training.faults.memory import is_out_of_memory, peak_memory
from maskcap.training.ranks import gather_objects, sum_over_ranks, this_rank, world_size

NAME = 4  # numbers that stand for a phrase: 16 bits each, which float32 holds exactly


class GlobalBatch:
    """One training step's exchange between ranks; every rank must make as many, in the same order.

    padding: this rank's batch only fills its place, and counts nothing. stand_ins: a rank without any region for a
    loop runs the model on one all the same, which counts nothing either: sharded weights are gathered by all ranks, in
    every forward.
    """

    def __init__(self, device: torch.device, *, padding: bool = False, stand_ins: bool = False) -> None:
        self.device = device
        self.padding = padding
        self.stand_ins = stand_ins
        self._loops = 0
        self._contrasts = 0  # of this step, that are still to come
        self._counts_due = False

    def begin(self, loops: int, contrasts: int) -> None:
        """A step of so many loops begins, so many of them with a contrast."""
        self._loops, self._contrasts, self._counts_due = loops, contrasts, True

    def contrast(
        self,
        query_nK: torch.Tensor,
        key_nK: torch.Tensor,
        phrases: Sequence[str],
        scale: torch.Tensor,
        stand_in: bool = False,
    ) -> torch.Tensor:
        """`phrase_contrast` of this rank's phrases among the regions of all ranks: the mean over its own, n ≥ 1.

        Its gradient is that of the mean over all ranks' phrases, as far as it goes to this rank's queries and keys
        (other ranks' phrases push its keys too), in the measure that `scaled` takes. So nothing is exchanged in the
        backward, where DDP has an order of its own. stand_in: these phrases count nothing. Waits for the device once.
        """
        if self.padding or stand_in:
            self.settle(self._contrasts - 1)
            return (query_nK.sum() + key_nK.sum() + scale.sum()) * 0.0
        width = query_nK.shape[1]
        names_n4 = torch.tensor([_name(phrase) for phrase in phrases], dtype=torch.float32)
        rows_nD = torch.cat([query_nK.float(), key_nK.float(), *to_device([names_n4], self.device)], dim=1)
        parts, first = self._gather(rows_nD)
        everyone = torch.cat(parts)
        last = first + len(phrases)
        query_RK, key_RK = (
            torch.cat([of_all[:first], own, of_all[last:]])
            for of_all, own in (
                (everyone[:, :width], rows_nD[:, :width]),
                (everyone[:, width:-NAME], rows_nD[:, width:-NAME]),
            )
        )
        names_R4 = everyone[:, -NAME:]
        same_RR = (names_R4[:, None] == names_R4).all(dim=2)
        still = scale.detach()
        scale_R1 = torch.cat([still.expand(first), scale.expand(len(phrases)), still.expand(len(everyone) - last)])[
            :, None
        ]
        of_all = phrase_contrast(query_RK, key_RK, same_RR, scale_R1)
        with torch.no_grad():
            own = phrase_contrast(query_RK[first:last], key_RK, same_RR[first:last], scale)
        return own + (of_all - of_all.detach()) * (len(everyone) / len(phrases))

    def settle(self, left: int = 0) -> None:
        """Joins, with nothing, in the contrasts that this rank has not had, but for the last `left`."""
        while self._contrasts > left:
            self._gather(torch.zeros(0, 0, device=self.device))

    def give_up(self) -> None:
        """For a rank whose forward failed: joins, with nothing, in what is left of the step's exchanges, so that no
        other rank waits for it. What to do then, the ranks must agree on before anyone steps."""
        self.settle()
        if self._counts_due:
            self._factors([])

    def scaled(self, outputs: Mapping[str, LoopOutput]) -> dict[str, LoopOutput]:
        """The outputs with this rank's share in the losses of the global batch, × ranks: what is to be averaged over
        ranks. One small all-reduce, for which the host does not wait."""
        factors_LU = self._factors([output.counts for output in outputs.values()])
        scaled = {}
        for (name, output), factors in zip(outputs.items(), factors_LU.unbind(), strict=True):
            if output.counts and output.parts:
                factor = dict(zip(OVER, factors.unbind(), strict=True))
                parts = [(weight, value * factor[output.over[part]]) for part, (weight, value) in output.parts.items()]
                output = replace(output, loss=weighed(parts))
            scaled[name] = output
        return scaled

    def _factors(self, counts: Sequence[Mapping[Over, int]]) -> torch.Tensor:
        """float32 (L, kinds): this rank's count × ranks / all ranks' count; no counts: nothing of any loop."""
        table = np.zeros((self._loops, len(OVER)), np.int64)
        for row, each in enumerate(() if self.padding else counts):
            table[row] = [each.get(kind, 0) for kind in OVER]
        (own,) = to_device([torch.from_numpy(table)], self.device)
        total = sum_over_ranks(own)
        self._counts_due = False  # only now: a rank whose memory ended before must still join, by `give_up`
        return (own * world_size() / total.clamp_min(1)).float()

    def _gather(self, rows_nD: torch.Tensor) -> tuple[list[torch.Tensor], int]:
        """Every rank's rows, without gradient, and how many come before this rank's; ranks may have none.

        Raises OutOfMemory, which no step is split for: in the middle of the exchange a rank cannot give up, the others
        would take its next collective for this one's.
        """
        (own,) = to_device([torch.tensor(rows_nD.shape)], self.device)
        shapes = [torch.empty_like(own) for _ in range(world_size())]
        try:
            parts, first = _exchange(rows_nD, own, shapes)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"out of memory on rank {this_rank()} ({peak_memory()}), in the exchange of regions between ranks, "
                f"which cannot be made in parts: lower data.batch_size or data.regions_per_image"
            ) from error
        self._contrasts -= 1
        return parts, first


def _exchange(rows_nD: torch.Tensor, own: torch.Tensor, shapes: list[torch.Tensor]) -> tuple[list[torch.Tensor], int]:
    """Every rank's rows, and how many come before this rank's. own: their shape; shapes: filled with all ranks'."""
    dist.all_gather(shapes, own)
    sizes = torch.stack(shapes).tolist()
    most, width = max(n for n, _ in sizes), max(d for _, d in sizes)
    if not most:
        return [rows_nD], 0
    padded = torch.zeros(most, width, device=own.device)
    padded[: rows_nD.shape[0], : rows_nD.shape[1]] = rows_nD.detach()
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    parts = [part[:n] for part, (n, _) in zip(gathered, sizes, strict=True)]
    return parts, sum(n for n, _ in sizes[: this_rank()])


def _name(phrase: str) -> list[int]:
    """A phrase as numbers: equal for equal phrases, on every rank."""
    digest = hashlib.sha256(phrase.encode()).digest()[: 2 * NAME]
    return np.frombuffer(digest, np.uint16).tolist()


def gather_logs(outputs: Mapping[str, LoopOutput], padding: bool = False) -> dict[str, float]:
    """`<loop>/<log>` of the global batch, of outputs that are `scaled`. Waits for the device; every rank must call it.

    padding: this rank's batch counts nothing.
    """
    counted = (
        {}
        if padding
        else {loop: each for loop, each in outputs.items() if not each.counts or any(each.counts.values())}
    )
    logs = {(loop, log): value for loop, each in counted.items() for log, value in each.logs.items()}
    logs |= {(loop, "loss"): outputs[loop].loss for loop, log in logs if log == "loss"}
    values = torch.stack([value.detach().float() for value in logs.values()]).tolist() if logs else []
    rows = [
        (f"{loop}/{log}", value, _weight(outputs[loop], log)) for (loop, log), value in zip(logs, values, strict=True)
    ]
    return merge_logs(gather_objects(rows))


def _weight(output: LoopOutput, log: str) -> int | None:
    """How much a rank's value counts in the ranks' mean; None: the values are added."""
    if log in output.over:
        return output.counts.get(output.over[log], 0)
    return 1 if not output.counts else None


def merge_logs(ranks: Sequence[Sequence[tuple[str, float, int | None]]]) -> dict[str, float]:
    """(name, value, weight) of each rank → one value for each name: a loop's `loss` is the ranks' mean, whatever is
    weighted the weighted mean over those that have it, the rest the sum."""
    found: dict[str, list[tuple[float, int | None]]] = {}
    for rows in ranks:
        for name, value, weight in rows:
            found.setdefault(name, []).append((value, weight))
    merged = {}
    for name, pairs in found.items():
        if name.endswith("/loss"):
            merged[name] = sum(value for value, _ in pairs) / len(ranks)
        elif any(weight is None for _, weight in pairs):
            merged[name] = sum(value for value, _ in pairs)
        elif total := sum(weight or 0 for _, weight in pairs):
            merged[name] = sum(value * (weight or 0) for value, weight in pairs) / total
    return merged
