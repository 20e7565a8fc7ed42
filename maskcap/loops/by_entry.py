"""What a step's losses are for each entry of the mixture: numbers for the logs, without gradient.

Shapes: A answer tokens of all segments, M masks, H × W their logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from maskcap.loops.outputs import Kind
from maskcap.losses import dice_loss, sigmoid_ce_loss
from maskcap.models.transfer import take

if TYPE_CHECKING:
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading

ByEntry: TypeAlias = dict[tuple[str, Kind], tuple[torch.Tensor, int]]


def rows_of(entries: Sequence[str]) -> dict[str, list[int]]:
    """Entry → the rows that are of it, of one entry a row."""
    rows: dict[str, list[int]] = {}
    for row, entry in enumerate(entries):
        rows.setdefault(entry, []).append(row)
    return rows


def answer_part(
    model: MaskCaptionModel, encoded: EncodedImages, reading: Reading, weight: float, entries: Sequence[str] = ()
) -> tuple[torch.Tensor, ByEntry]:
    """The mean cross-entropy of the answers' tokens, and the entries' own × weight; entries: of each segment."""
    loss, each_A = model.answer_losses(encoded, reading)
    of_tokens = [entry for entry, count in zip(entries, reading.answer_counts, strict=False) for _ in range(count)]
    with torch.no_grad():
        rows = rows_of(of_tokens).items()
        return loss, {(entry, "text"): (take(each_A, mine).mean() * weight, len(mine)) for entry, mine in rows}


@torch.no_grad()
def masks_by_entry(
    logits: torch.Tensor, targets: torch.Tensor, entries: Sequence[str], ce_weight: float, dice_weight: float
) -> ByEntry:
    """Mask logits and targets (M, H, W) → the entries' sums of weighted cross-entropy and dice."""
    found: ByEntry = {}
    for entry, rows in rows_of(entries).items():
        mine, true = take(logits, rows), take(targets, rows)
        value = ce_weight * sigmoid_ce_loss(mine, true) + dice_weight * dice_loss(mine, true)
        found[entry, "mask"] = value, len(rows)
    return found
