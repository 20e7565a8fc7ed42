"""What is computed at most once for a batch of images.

Shapes: B images, T image tokens, C the language model's width, K the grounding map's width.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from maskcap.models.segmenter import SegmenterFeatures
from maskcap.models.sequence import Prefix, build_prefixes
from maskcap.models.vlm.interface import ImageTokens
from maskcap.models.work import Work

if TYPE_CHECKING:
    from maskcap.models.mask_caption import MaskCaptionModel


class EncodedImages:
    """A batch's encodings, each made on first use: VLM tokens, SAM2 features, prefixes, grounding keys.

    `work` counts what was done for the batch.
    """

    def __init__(self, model: MaskCaptionModel, image1: torch.Tensor) -> None:
        self.model = model
        self.image1 = image1
        self.work = Work()

    @cached_property
    def tokens(self) -> ImageTokens:
        """The language model's image tokens."""
        self.work.vlm_images += self.image1.shape[0]
        return self.model.encode_image(self.image1)

    @cached_property
    def segmenter(self) -> SegmenterFeatures:
        """SAM2's image features."""
        self.work.sam_images += self.image1.shape[0]
        return self.model.segmenter.encode(self.image1)

    @cached_property
    def prefix(self) -> Prefix:
        """The language model's reading of the images' prefixes, to generate from."""
        vlm = self.model.vlm
        return vlm.read_prefix(build_prefixes(vlm, self.tokens.features, self.work))  # type: ignore[operator,arg-type]

    @cached_property
    def image_states(self) -> torch.Tensor:
        """The language model's states (B, T, C) at the image tokens; a reading of packed trees puts its own here."""
        if "prefix" in self.__dict__:
            return self.prefix.states
        vlm, features = self.model.vlm, self.tokens.features
        sequences = build_prefixes(vlm, features, self.work)  # type: ignore[arg-type]
        states = vlm.hidden_states(sequences).flatten(0, 1)  # type: ignore[operator]
        return states.index_select(0, sequences.image_positions).view_as(features)

    @cached_property
    def keys(self) -> torch.Tensor:
        """Grounding keys (B, T, K); always from the full image, also where prompts leave the image's tokens out."""
        assert self.model.grounding is not None
        return self.model.grounding.keys(self.tokens.features, self.image_states)
