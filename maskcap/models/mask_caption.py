"""MaskCaptionModel: encode an image, describe its regions, segment by phrases.

Shapes: B images, R regions, T image tokens, C the language model's width, D SAM2's width, M low-res mask side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from maskcap.errors import ConfigError
from maskcap.losses import answer_losses
from maskcap.models.asking import Asking
from maskcap.models.component_times import model_name
from maskcap.models.crops import encode_crops
from maskcap.models.encoded import EncodedImages
from maskcap.models.grounding import GroundingHead
from maskcap.models.packing import Packing, check_packing
from maskcap.models.reading import Reading
from maskcap.models.region_prompt import Chosen, choose_features, coverage, fill_empty, pool_masks
from maskcap.models.segmenter import Segmenter
from maskcap.models.segments import Questions, RegionTokens, join_questions
from maskcap.models.sequence import build_continuations, build_sequences
from maskcap.models.token_coverage import fill_unseen, select_tokens, token_coverage
from maskcap.models.tree_attention import Attention, choose_attention
from maskcap.models.vlm.interface import Generated, ImageTokens, TokenRule
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.runtime import RuntimeRule
from maskcap.vision_tokens.settings import Patches, SingleView, Tiling, VisionTokens


class MaskCaptionModel(Asking, nn.Module):
    """A VLM and a segmenter joined by region prompts (mask → caption) and a [SEG] token (caption → mask).

    grounding: add the grounding map (on for models without pretraining). vision_tokens: see `settings.py`.
    packing: how segments share rows, see `packing.py`; both give the same numbers. token_budget: tokens of a row of
    packed trees, None for one tree a row. attention: of the language model, see `tree_attention.py`.
    max_new_tokens: longest generated caption. max_length: longest segment with its prefix in tokens, None for no limit.
    compile, activation_checkpointing: see `acceleration.py`. Raises ConfigError for settings that are none of these or
    that do not go together.
    """

    def __init__(
        self,
        vlm: nn.Module,
        segmenter: Segmenter,
        grounding: bool = False,
        vision_tokens: VisionTokens | None = None,
        packing: Packing = "tree",
        token_budget: int | None = None,
        attention: Attention = "auto",
        max_new_tokens: int = 64,
        max_length: int | None = None,
        compile: bool = False,
        activation_checkpointing: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_packing(packing, token_budget)
        self.vlm = vlm
        self.segmenter = segmenter
        width: int = vlm.hidden_size  # type: ignore[assignment]
        self.seg_mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, segmenter.hidden_size))
        self.region_marker = nn.Parameter(torch.zeros(width))
        self.grounding = GroundingHead(width, places=not vlm.adds_positions) if grounding else None  # type: ignore[arg-type]
        self.set_vision_tokens(vision_tokens or SingleView())
        self.packing: Packing = packing
        self.token_budget = token_budget
        self.max_new_tokens = max_new_tokens
        self.max_length = max_length
        choose_attention(vlm.language_model, attention)
        if activation_checkpointing or compile:
            from maskcap.models.acceleration import checkpoint_activations, compile_parts

            checkpoint_activations(self, activation_checkpointing)
            if compile:
                compile_parts(self)

    def set_vision_tokens(self, vision_tokens: VisionTokens) -> None:
        """How many tokens an image costs from now on; weights do not depend on it.

        Raises ConfigError for what contradicts or does not divide, for a target without a table of this model, and for
        patches of a model that has one grid for all images.
        """
        check_goes_with(self.vlm, vision_tokens)
        self.vision_tokens: VisionTokens = vision_tokens
        self.tiling_rule: RuntimeRule | None = None
        if isinstance(vision_tokens, Tiling):
            geometry: Geometry = self.vlm.geometry(vision_tokens.margins)  # type: ignore[operator,assignment]
            self.tiling_rule = vision_tokens.runtime_rule(geometry, model_name(self))

    def encode_image(self, image1: torch.Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> ImageTokens:
        """(B, 3, H, W) ImageNet-normalised → `features` (B, T, C) and where each token looks.

        sizes: the images' own (height, width), by which they are cut into crops, or keep their aspect ratio; None:
        (H, W). Patches that are chosen by the picture wait for the device once.
        """
        rule = self.tiling_rule
        if isinstance(self.vision_tokens, Patches):
            return self.vlm.encode_image(image1, sizes, self.vision_tokens)  # type: ignore[operator]
        if rule is None or not isinstance(self.vision_tokens, Tiling):
            return self.vlm.encode_image(image1, sizes)  # type: ignore[operator]
        height, width = image1.shape[-2:]
        sizes = [(height, width)] * image1.shape[0] if sizes is None else sizes
        tilings = [rule.choose(*size) for size in sizes]
        global_view = self.vision_tokens.global_view
        return encode_crops(self.vlm, image1, sizes, tilings, rule.geometry, global_view)  # type: ignore[arg-type]

    def encode(
        self,
        images: torch.Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> EncodedImages:
        """A lazy cache of everything that is computed once an image; sizes as above. groups: the images of each prefix,
        its own first (a video's frames); None: each alone."""
        return EncodedImages(self, images, sizes, groups)

    def region_tokens(
        self, tokens: ImageTokens, mask1: torch.Tensor, region_image: torch.Tensor
    ) -> tuple[RegionTokens, torch.Tensor]:
        """The tokens that stand for each region, and how many regions were too small for the grid (device scalar).

        Waits for the device once: the sequences' lengths depend on the masks.
        """
        pool = self.vision_tokens.pool
        if tokens.boxes is None:
            assert tokens.grid is not None and tokens.grid[0] == tokens.grid[1]
            selected, small = fill_empty(pool_masks(mask1, tokens.grid[0], pool), mask1)
        else:
            boxes = tokens.boxes.index_select(0, region_image)
            selected, small = fill_unseen(select_tokens(mask1, boxes, pool), mask1, boxes)
        chosen = choose_features(tokens.features, selected, region_image)
        positions = self._region_positions(tokens, chosen) if self.vlm.mrope else None
        return RegionTokens(chosen.features + self.region_marker, chosen.counts, positions), small

    def _region_positions(self, tokens: ImageTokens, chosen: Chosen) -> list[tuple[np.ndarray, int]]:
        """M-RoPE positions of each region's tokens: those of the image's own, and the positions that it takes."""
        of_layout = {each: self.vlm.image_positions(each) for each in set(tokens.layouts)}  # type: ignore[operator]
        images = [of_layout[tokens.layouts[image]] for image in chosen.images]
        return [(places[:, numbers], span) for (places, span), numbers in zip(images, chosen.tokens, strict=True)]

    def coverage(self, tokens: ImageTokens, mask1: torch.Tensor, region_image: torch.Tensor) -> torch.Tensor:
        """Share of what each token sees that the mask covers, (R, H, W) → (R, T) in [0, 1]."""
        if tokens.boxes is None:
            assert tokens.grid is not None
            return coverage(mask1, tokens.grid[0])
        return token_coverage(mask1, tokens.boxes.index_select(0, region_image))

    def read(self, encoded: EncodedImages, asked: Sequence[Questions]) -> list[Reading]:
        """Run the language model once over all that was asked; each gets its own part of the reading.

        Raises SequenceTooLongError, naming the segment.
        """
        questions = join_questions(asked)
        if not questions.segments:
            return []
        needs_image = questions.image_states or any(segment.keep_image for segment in questions.segments)
        sequences = build_sequences(
            self.vlm,  # type: ignore[arg-type]
            questions,
            encoded.tokens if needs_image else None,
            packing=self.packing,
            token_budget=self.token_budget,
            max_length=self.max_length,
            work=encoded.work,
        )
        states = self.vlm.hidden_states(sequences).flatten(0, 1)  # type: ignore[operator]
        if sequences.image_positions.numel():
            image_states = states.index_select(0, sequences.image_positions.flatten())
            encoded.image_states = image_states.view_as(encoded.tokens.features)
        whole = Reading(states, sequences, 0, len(questions.segments))
        ends = [0]
        for part in asked:
            ends.append(ends[-1] + len(part.segments))
        return [whole.part(first, last) for first, last in zip(ends, ends[1:], strict=False)]

    def answer_losses(self, encoded: EncodedImages, reading: Reading) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy of the answers' tokens, scalar float32, and that of each, (A,) without gradient; only they
        go through the head."""
        ids = reading.answer_ids
        encoded.work.answers += ids.numel()
        return answer_losses(reading.answer_states, self.vlm.head_weight, ids)  # type: ignore[arg-type]

    def masks_of(self, encoded: EncodedImages, seg_states: torch.Tensor, region_image: torch.Tensor) -> torch.Tensor:
        """[SEG] states (R, C) → low-res mask logits (R, M, M), each in the image of that number."""
        return self.mask_logits(encoded, seg_states, region_image, self.ground(encoded, seg_states, region_image))

    def mask_logits(
        self,
        encoded: EncodedImages,
        seg_states: torch.Tensor,
        region_image: torch.Tensor,
        grounding_map: torch.Tensor | None,
    ) -> torch.Tensor:
        """[SEG] states (R, C) (and maps (R, T)) → SAM2's low-res logits (R, M, M)."""
        encoded.work.masks += seg_states.shape[0]
        sparse = self.seg_mlp(seg_states)[:, None]
        dense = None if grounding_map is None else encoded.as_map(grounding_map, region_image)
        return self.segmenter.decode(encoded.segmenter, region_image, sparse, dense)

    def describe(
        self,
        image1: torch.Tensor,
        mask1: torch.Tensor,
        region_image: torch.Tensor | None = None,
        questions: Sequence[str | None] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[str]:
        """Greedy captions of R regions: image1 (B, 3, H, W) normalised, mask1 (R, H, W); `region_image` may be left
        out when region i is of image i. sizes: see `encode_image`. Raises SequenceTooLongError."""
        region_image = _region_image(region_image, mask1.shape[0], image1)
        return self.generate_captions(self.encode(image1, sizes), mask1, region_image, questions).texts

    @torch.no_grad()
    def generate_captions(
        self,
        encoded: EncodedImages,
        mask1: torch.Tensor,
        region_image: torch.Tensor,
        questions: Sequence[str | None] | None = None,
        names: Sequence[str] | None = None,
    ) -> Generated:
        """As `describe`, with whether each caption was cut at `max_new_tokens`; `names` of the regions, for errors.

        packing=tree reads each image's prefix once for all its regions, and each caption goes on from its cache.
        """
        if not mask1.shape[0]:
            return Generated([], [])
        regions, _ = self.region_tokens(encoded.tokens, mask1, region_image)
        questions = questions if questions is not None else [None] * mask1.shape[0]
        return self.generate(encoded, self.describe_questions(regions, region_image.tolist(), questions, names=names))

    @torch.no_grad()
    def generate(
        self,
        encoded: EncodedImages,
        questions: Questions,
        max_new_tokens: int | None = None,
        rule: TokenRule | None = None,
        reserve: int = 0,
    ) -> Generated:
        """Answers to questions without one, token by token from a cache; max_new_tokens: None for the model's own.

        rule: what becomes of the logits before the largest is taken. reserve: tokens of the answer that must fit
        `max_length` too. Keeps `encoded.prefix`, which has no gradient; where a prompt leaves the images out, every
        sequence is read as a whole. Raises SequenceTooLongError.
        """
        kept = [segment.keep_image for segment in questions.segments]
        sequences = build_continuations(
            self.vlm,  # type: ignore[arg-type]
            questions,
            encoded.tokens if any(kept) else None,
            encoded.prefix if self.packing == "tree" and all(kept) else None,
            max_length=self.max_length,
            reserve=reserve,
        )
        return self.vlm.generate(sequences, max_new_tokens or self.max_new_tokens, rule)  # type: ignore[operator]

    @torch.no_grad()
    def segment(
        self,
        image1: torch.Tensor,
        phrases: Sequence[str],
        region_image: torch.Tensor | None = None,
        encoded: EncodedImages | None = None,
        names: Sequence[str] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> torch.Tensor:
        """Low-res mask logits float32 (R, M, M) of R phrases; > 0 is the mask. sizes: see `encode_image`. Raises
        SequenceTooLongError, naming the phrase or what `names` calls it."""
        region_image = _region_image(region_image, len(phrases), image1)
        if not phrases:
            return image1.new_zeros(0, self.segmenter.mask_size, self.segmenter.mask_size)
        encoded = encoded or self.encode(image1, sizes)
        images = region_image.tolist()
        encoded.want_masks(images)
        (reading,) = self.read(encoded, [self.phrase_questions(phrases, images, names=names)])
        return self.masks_of(encoded, reading.seg_states, region_image)

    def ground(
        self, encoded: EncodedImages, seg_states: torch.Tensor, region_image: torch.Tensor
    ) -> torch.Tensor | None:
        """Grounding map logits (R, T) of the [SEG] states, None without a grounding head."""
        if self.grounding is None:
            return None
        return self.grounding(self.grounding.queries(seg_states), encoded.keys, region_image, encoded.tokens.valid)


def check_goes_with(vlm: nn.Module, vision_tokens: VisionTokens) -> None:
    """Raises ConfigError for patches of a model that has one grid for all images."""
    if isinstance(vision_tokens, Patches) and not vlm.selects_patches:
        raise ConfigError(
            f"vision_tokens=patches does not go with {type(vlm).__name__}, which has one grid for all images: "
            "use model=qwen2_vl (or qwen2_vl_tiny), or vision_tokens=tiling"
        )


def _region_image(region_image: torch.Tensor | None, regions: int, image1: torch.Tensor) -> torch.Tensor:
    if region_image is not None:
        return region_image
    if regions != image1.shape[0]:
        raise ValueError(f"{regions} regions of {image1.shape[0]} images: say which image each is of (region_image)")
    return torch.arange(regions, device=image1.device)
