"""What [SEG]s are asked for, and which of a batch's masks they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from maskcap.loops.outputs import Over
from maskcap.models.transfer import take, to_device

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.reading import Reading


@dataclass(frozen=True)
class AskedRegions:
    """What S [SEG]s are asked for: their phrases, and M masks of these, in images or a video's frames.

    masks (M, H, W); region_image int64 (M,): the image of each. of_seg: the [SEG] that each is asked of; () for one
    mask each, in order. told_apart: masks that are told from each other; None: all. stand_in: they count nothing.
    entries: of the mixture, where each [SEG] is from; () where nobody asks.
    """

    phrases: list[str]
    masks: torch.Tensor
    region_image: torch.Tensor
    stand_in: bool = False
    of_seg: tuple[int, ...] = ()
    told_apart: tuple[int, ...] | None = None
    entries: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, batch: Batch, regions: list[int], phrases: list[str], *, stand_in: bool = False, by_entry: bool = False
    ) -> AskedRegions:
        """One [SEG] for each of these regions, with all of its masks: in image1 and in the frames behind it."""
        of_masks = batch.masks_of(regions)
        numbers, images = [mask for _, mask in of_masks], batch.mask_images
        alone = len(numbers) == len(regions)
        region_image = take(batch.region_image, regions)
        if not alone:
            (region_image,) = to_device([torch.tensor([images[mask] for mask in numbers])], batch.device)
        return cls(
            phrases,
            take(batch.masks, numbers),
            region_image,
            stand_in,
            () if alone else tuple(seg for seg, _ in of_masks),
            _told_apart(batch, regions, of_masks),
            tuple(batch.entries_of(regions)) if by_entry and not stand_in else (),
        )

    def of_masks(self, segs: torch.Tensor) -> torch.Tensor:
        """What S [SEG]s have (S, …), for each of the M masks."""
        return take(segs, self.of_seg) if self.of_seg else segs

    @property
    def segs(self) -> Sequence[int]:
        """The [SEG] of each of the M masks."""
        return self.of_seg or range(len(self.phrases))

    @property
    def contrasted(self) -> list[int]:
        """The masks that are told from each other."""
        return list(range(self.masks.shape[0]) if self.told_apart is None else self.told_apart)

    def counts(self, reading: Reading) -> dict[Over, int]:
        """What the means of `phrase_losses` are over."""
        if self.stand_in:
            return {"regions": 0, "answers": 0, "contrasted": 0}
        return {
            "regions": self.masks.shape[0],
            "answers": reading.answer_ids.numel(),
            "contrasted": len(self.contrasted),
        }


def _told_apart(batch: Batch, regions: Sequence[int], of_masks: Sequence[tuple[int, int]]) -> tuple[int, ...] | None:
    """The masks that are told from each other: each region's in image1, once, where it is to be seen; None: all."""
    first = {region: seg for seg, region in reversed(list(enumerate(regions)))}
    told = tuple(
        m
        for m, (seg, mask) in enumerate(of_masks)
        if mask == regions[seg] and first[mask] == seg and not batch.is_empty(mask)
    )
    return None if len(told) == len(of_masks) else told
