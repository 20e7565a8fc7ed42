"""MaskCaptionModel: encode an image, describe its regions, segment by phrases.

Shapes: B images, R regions, T image tokens, C the language model's width, D SAM2's width, M low-res mask side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from maskcap.models.conversation import Words
from maskcap.models.grounding import GroundingHead
from maskcap.models.region_prompt import Pool, fill_empty, pool_masks, select_features_flat
from maskcap.models.segmenter import Segmenter, SegmenterFeatures
from maskcap.models.sequence import Prefix, RegionTokens, Segment, Sequences, build_prefixes, build_sequences
from maskcap.models.vlm.interface import Generated, ImageTokens

Packing = Literal["fork", "none"]


class EncodedImages:
    """What is computed at most once for a batch of images, on first use: VLM tokens, SAM2 features, grounding keys."""

    def __init__(self, model: MaskCaptionModel, image1: torch.Tensor) -> None:
        self.model = model
        self.image1 = image1

    @cached_property
    def tokens(self) -> ImageTokens:
        """The language model's image tokens."""
        return self.model.encode_image(self.image1)

    @cached_property
    def segmenter(self) -> SegmenterFeatures:
        """SAM2's image features."""
        return self.model.segmenter.encode(self.image1)

    @cached_property
    def prefix(self) -> Prefix:
        """The language model's reading of the images' prefixes."""
        return self.model.vlm.read_prefix(build_prefixes(self.model.vlm, self.tokens.features))  # type: ignore[operator]

    @cached_property
    def keys(self) -> torch.Tensor:
        """Grounding keys (B, T, K); always from the full image, also where prompts leave the image's tokens out."""
        assert self.model.grounding is not None
        features = self.tokens.features
        states = self.prefix.states.flatten(0, 1).index_select(0, self.prefix.image_positions)
        return self.model.grounding.keys(features, states.view_as(features))


@dataclass(frozen=True)
class Phrases:
    """The language model's reading of R phrases: [SEG] states (R, C), and the sequences for the answer's loss."""

    seg_states: torch.Tensor
    states: torch.Tensor
    sequences: Sequences


class MaskCaptionModel(nn.Module):
    """A VLM and a segmenter joined by region prompts (mask → caption) and a [SEG] token (caption → mask).

    grounding: add the grounding map (on for models without pretraining). pool: how a mask selects tokens.
    packing: how sequences share their prefix, see `sequence.py`; both give the same numbers.
    max_new_tokens: longest generated caption. max_length: longest sequence in tokens, None for no limit.
    """

    def __init__(
        self,
        vlm: nn.Module,
        segmenter: Segmenter,
        grounding: bool = False,
        pool: Pool = "nearest",
        packing: Packing = "fork",
        max_new_tokens: int = 64,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self.vlm = vlm
        self.segmenter = segmenter
        width: int = vlm.hidden_size  # type: ignore[assignment]
        self.seg_mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, segmenter.hidden_size))
        self.region_marker = nn.Parameter(torch.zeros(width))
        self.grounding = GroundingHead(width) if grounding else None
        self.pool: Pool = pool
        self.packing: Packing = packing
        self.max_new_tokens = max_new_tokens
        self.max_length = max_length

    def encode_image(self, image1: torch.Tensor) -> ImageTokens:
        """(B, 3, H, W) ImageNet-normalised → `features` (B, T, C) and a TokenLayout."""
        return self.vlm.encode_image(image1)  # type: ignore[operator]

    def encode(self, image1: torch.Tensor) -> EncodedImages:
        """A lazy cache of everything that is computed once an image."""
        return EncodedImages(self, image1)

    def region_tokens(
        self, tokens: ImageTokens, mask1: torch.Tensor, region_image: torch.Tensor
    ) -> tuple[RegionTokens, torch.Tensor]:
        """The tokens that stand for each region, and how many regions were too small for the grid (device scalar)."""
        assert tokens.layout.grid is not None
        selected, small = fill_empty(pool_masks(mask1, tokens.layout.grid[0], self.pool), mask1)
        features, counts = select_features_flat(tokens.features, selected, region_image)
        return RegionTokens(features + self.region_marker, counts), small

    def describe_sequences(
        self,
        encoded: EncodedImages,
        regions: RegionTokens,
        region_image: Sequence[int],
        questions: Sequence[str | None],
        captions: Sequence[str] | None,
        keep_image: bool = True,
        names: Sequence[str] | None = None,
    ) -> Sequences:
        """Sequences of mask → caption; `captions` None leaves the answer to be generated (left padding, no fork).

        names: of the regions, for SequenceTooLongError.
        """
        conversation = self.vlm.conversation
        segments = [
            Segment(
                image,
                conversation.describe_prompt(question),  # type: ignore[union-attr,arg-type]
                None if captions is None else [Words(captions[r])],
                region=r,
                name="" if names is None else names[r],
            )
            for r, (image, question) in enumerate(zip(region_image, questions, strict=True))
        ]
        if captions is None:
            features = encoded.tokens.features
            return build_sequences(
                self.vlm,  # type: ignore[arg-type]
                segments,
                features,
                regions,
                padding="left",
                max_length=self.max_length,
            )
        return self._sequences(encoded, segments, regions, keep_image)

    def _sequences(
        self, encoded: EncodedImages, segments: list[Segment], regions: RegionTokens | None, keep_image: bool
    ) -> Sequences:
        """Training sequences, packed as configured; without the image's tokens there is nothing to share."""
        features = encoded.tokens.features if keep_image else None
        prefix = encoded.prefix if keep_image and self.packing == "fork" else None
        return build_sequences(
            self.vlm,  # type: ignore[arg-type]
            segments,
            features,
            regions,
            max_length=self.max_length,
            prefix=prefix,
        )

    def read_phrases(
        self,
        encoded: EncodedImages,
        phrases: Sequence[str],
        region_image: Sequence[int],
        keep_image: bool = True,
        names: Sequence[str] | None = None,
    ) -> Phrases:
        """Run the language model over "segment this phrase" and its answer with [SEG].

        The template fixes the answer, so [SEG] is given, not generated: one forward, in training and in evaluation.
        names: of the phrases' regions, for SequenceTooLongError.
        """
        conversation = self.vlm.conversation
        segments = [
            Segment(
                image,
                conversation.segment_prompt(phrase),  # type: ignore[union-attr,arg-type]
                conversation.segment_answer,  # type: ignore[union-attr,arg-type]
                name=f"phrase {phrase!r}" if names is None else names[row],
            )
            for row, (image, phrase) in enumerate(zip(region_image, phrases, strict=True))
        ]
        sequences = self._sequences(encoded, segments, None, keep_image)
        states = self.vlm.hidden_states(sequences)  # type: ignore[operator]
        return Phrases(states.flatten(0, 1).index_select(0, sequences.seg_positions), states, sequences)

    def mask_logits(
        self,
        features: SegmenterFeatures,
        seg_states: torch.Tensor,
        region_image: torch.Tensor,
        grounding_map: torch.Tensor | None,
        layout_grid: tuple[int, int] | None,
    ) -> torch.Tensor:
        """[SEG] states (R, C) (and maps (R, T)) → SAM2's low-res logits (R, M, M)."""
        sparse = self.seg_mlp(seg_states)[:, None]
        dense = None
        if grounding_map is not None and layout_grid is not None:
            dense = grounding_map.view(-1, *layout_grid)
        return self.segmenter.decode(features, region_image, sparse, dense)

    @torch.no_grad()
    def describe(
        self,
        image1: torch.Tensor,
        mask1: torch.Tensor,
        region_image: torch.Tensor | None = None,
        questions: Sequence[str | None] | None = None,
        encoded: EncodedImages | None = None,
        names: Sequence[str] | None = None,
    ) -> list[str]:
        """Greedy captions of R regions: image1 (B, 3, H, W) normalised, mask1 (R, H, W); `region_image` may be left
        out when region i is of image i. Raises SequenceTooLongError, naming the region by `names`."""
        return self.generate_captions(image1, mask1, region_image, questions, encoded, names).texts

    @torch.no_grad()
    def generate_captions(
        self,
        image1: torch.Tensor,
        mask1: torch.Tensor,
        region_image: torch.Tensor | None = None,
        questions: Sequence[str | None] | None = None,
        encoded: EncodedImages | None = None,
        names: Sequence[str] | None = None,
    ) -> Generated:
        """As `describe`, with whether each caption was cut at `max_new_tokens`."""
        region_image = _region_image(region_image, mask1.shape[0], image1)
        encoded = encoded or self.encode(image1)
        regions, _ = self.region_tokens(encoded.tokens, mask1, region_image)
        asked = questions if questions is not None else [None] * mask1.shape[0]
        sequences = self.describe_sequences(encoded, regions, region_image.tolist(), asked, None, names=names)
        return self.vlm.generate(sequences, self.max_new_tokens)  # type: ignore[operator]

    @torch.no_grad()
    def segment(
        self,
        image1: torch.Tensor,
        phrases: Sequence[str],
        region_image: torch.Tensor | None = None,
        encoded: EncodedImages | None = None,
        names: Sequence[str] | None = None,
    ) -> torch.Tensor:
        """Low-res mask logits float32 (R, M, M) of R phrases; > 0 is the mask. Raises SequenceTooLongError, naming the
        phrase or what `names` calls it."""
        region_image = _region_image(region_image, len(phrases), image1)
        encoded = encoded or self.encode(image1)
        seg_states = self.read_phrases(encoded, phrases, region_image.tolist(), names=names).seg_states
        grounding_map = self.ground(encoded, seg_states, region_image)
        grid = encoded.tokens.layout.grid
        return self.mask_logits(encoded.segmenter, seg_states, region_image, grounding_map, grid)

    def ground(
        self, encoded: EncodedImages, seg_states: torch.Tensor, region_image: torch.Tensor
    ) -> torch.Tensor | None:
        """Grounding map logits (R, T) of the [SEG] states, None without a grounding head."""
        if self.grounding is None:
            return None
        return self.grounding(self.grounding.queries(seg_states), encoded.keys, region_image)


def _region_image(region_image: torch.Tensor | None, regions: int, image1: torch.Tensor) -> torch.Tensor:
    if region_image is not None:
        return region_image
    if regions != image1.shape[0]:
        raise ValueError(f"{regions} regions of {image1.shape[0]} images: say which image each is of (region_image)")
    return torch.arange(regions, device=image1.device)
