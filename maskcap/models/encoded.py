"""What is computed at most once for a batch of images.

Shapes: B images, T image tokens, C the language model's width, K the grounding map's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskcap.models.segmenter import SegmenterFeatures
from maskcap.models.sequence import Prefix, build_prefixes
from maskcap.models.token_maps import TokenMaps, token_maps
from maskcap.models.transfer import take, to_device
from maskcap.models.vlm.interface import Generated, Groups, ImageTokens
from maskcap.models.work import Work

if TYPE_CHECKING:
    from maskcap.models.mask_caption import MaskCaptionModel


class EncodedImages:
    """A batch's encodings, each made on first use: VLM tokens, SAM2 features, prefixes, grounding keys.

    images (B, 3, H, W) with their own sizes. groups: the images that each prefix shows one after another: prefix p
    image p first, and every image is in one of them; None: each alone. `work` counts what was done for the batch.
    Raises ValueError for other groups.
    """

    def __init__(
        self,
        model: MaskCaptionModel,
        images: torch.Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.model = model
        self.images = images
        self.sizes = sizes
        self.groups = None if groups is None else tuple(tuple(group) for group in groups)
        _check_groups(self.groups, images.shape[0])
        self.work = Work()
        self._wanted: set[int] = set()
        self._encoded: set[int] = set()
        self._features: SegmenterFeatures | None = None
        self.greedy: Generated | None = None  # captions of the batch's regions, for loops that share them

    @cached_property
    def tokens(self) -> ImageTokens:
        """The language model's image tokens."""
        tokens = replace(self.model.encode_image(self.images, self.sizes), groups=self.groups)
        self.work.vlm_images += sum(self.model.vlm.views(layout) for layout in tokens.layouts)  # type: ignore[operator]
        return tokens

    def frozen(self, prefixes: Sequence[int]) -> EncodedImages:
        """The images of some prefixes with the same tokens, cut off from the graph: for a reading of their own without
        gradient. The first image of each comes first, so that they are numbered as the prefixes are."""
        images, groups = list(prefixes), None
        if self.groups is not None:
            further = [self.groups[prefix][1:] for prefix in prefixes]
            ends = np.cumsum([len(images), *map(len, further)]).tolist()
            groups = tuple((number, *range(*span)) for number, span in enumerate(zip(ends, ends[1:], strict=False)))
            images += [image for each in further for image in each]
        sizes = None if self.sizes is None else [self.sizes[image] for image in images]
        part = EncodedImages(self.model, take(self.images, images), sizes, groups)
        part.__dict__["tokens"] = replace(self.tokens.detached(images), groups=groups)
        return part

    def want_masks(self, images: Sequence[int]) -> None:
        """Says which images masks will be asked of, by their numbers, beside those that were named before. SAM2 encodes
        these alone; where nobody names any, all."""
        self._wanted.update(images)

    @property
    def token_costs(self) -> list[tuple[int, int]]:
        """Each image's tokens, and those of its whole grid; [] where no image was encoded for the language model."""
        if "tokens" not in self.__dict__:
            return []
        return [
            (len(layout), sum(int((4 ** cells[:, 2]).sum()) for cells in layout.cells))
            for layout in self.tokens.layouts
        ]

    @property
    def segmenter(self) -> SegmenterFeatures:
        """SAM2's features of the images that masks are asked of, each encoded once."""
        missing = sorted((self._wanted or set(range(self.images.shape[0]))) - self._encoded)
        if missing or self._features is None:
            self._encoded.update(missing)
            self.work.sam_images += len(missing)
            further = self.model.segmenter.encode(self.images, missing)
            self._features = further if self._features is None else self._features.beside(further)
        return self._features

    @cached_property
    def prefix(self) -> Prefix:
        """The language model's reading of the images' prefixes, to generate from."""
        vlm = self.model.vlm
        return vlm.read_prefix(build_prefixes(vlm, self.tokens, self.work))  # type: ignore[operator,arg-type]

    @cached_property
    def image_states(self) -> torch.Tensor:
        """The language model's states (B, T, C) at the image tokens; a reading of packed trees puts its own here."""
        if "prefix" in self.__dict__:
            return self.prefix.states
        vlm, features = self.model.vlm, self.tokens.features
        sequences = build_prefixes(vlm, self.tokens, self.work)  # type: ignore[arg-type]
        states = vlm.hidden_states(sequences).flatten(0, 1)  # type: ignore[operator]
        return states.index_select(0, sequences.image_positions.flatten()).view_as(features)

    @cached_property
    def keys(self) -> torch.Tensor:
        """Grounding keys (B, T, K); always from the full image, also where prompts leave the image's tokens out."""
        head = self.model.grounding
        assert head is not None
        boxes = self._boxes if head.key_place is not None else None
        return head.keys(self.tokens.features, self.image_states, boxes)

    def as_map(self, values: torch.Tensor, region_image: torch.Tensor) -> torch.Tensor:
        """Numbers of the tokens (R, T) → maps of the image (R, m, m): of one grid for all as they stand, else with
        SAM2's own m, see `token_maps`. The prompt that SAM2 makes of either is the same."""
        if self.tokens.grid is not None:
            return values.view(-1, *self.tokens.grid)
        return self._maps.draw(values, region_image)

    @cached_property
    def _boxes(self) -> torch.Tensor:
        """float32 (B, T, 4): where each token looks."""
        if self.tokens.boxes is not None:
            return self.tokens.boxes
        return to_device([torch.stack([layout.boxes for layout in self.tokens.layouts])], self.images.device)[0]

    @cached_property
    def _maps(self) -> TokenMaps:
        return token_maps(self.tokens.layouts, self.model.segmenter.mask_size, self.images.device)


def _check_groups(groups: Groups | None, images: int) -> None:
    if groups is None:
        return
    if any(group[:1] != (prefix,) for prefix, group in enumerate(groups)):
        raise ValueError(f"groups {groups}: prefix p shows image p first")
    if sorted(image for group in groups for image in group) != list(range(images)):
        raise ValueError(f"groups {groups} of {images} images: every image is in one of them, once")
