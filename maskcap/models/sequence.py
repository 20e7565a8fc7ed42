"""The one place where the language model's sequences are made: prefix + segments → embeddings, mask, labels.

Shapes: N sequences, A answer tokens of all sequences, L padded length, C width, T image tokens, n_r tokens of region r.

`packing: none`: every segment is a sequence of its own, `prefix (with the image's tokens) + question + answer`.
`packing: fork`: the prefix is read once an image, and each segment goes on from a copy of its keys and values. A
segment attends to the prefix and itself only and its positions start where the prefix ends: both give the same states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from maskcap.errors import SequenceTooLongError
from maskcap.models.conversation import IMAGE_SLOT, REGION_SLOT, SEG, Prompt, Words, token_ids
from maskcap.models.transfer import to_device

if TYPE_CHECKING:
    from maskcap.models.vlm.interface import VLM


@dataclass(frozen=True)
class Segment:
    """One question and answer about one image.

    prompt: what stands before the answer, may hold REGION_SLOT once. answer: what to learn, None to generate. Texts of
    the data stand in them as Words. region: whose tokens stand at REGION_SLOT, an index into the batch's regions.
    name: for error messages.
    """

    image: int
    prompt: Prompt
    answer: Prompt | None = None
    region: int | None = None
    name: str = ""


@dataclass(frozen=True)
class Prefix:
    """The prefixes of B images as the language model read them, with gradient.

    keys, values: one (B, heads, P, width) tensor a layer. states (B, P, C): last hidden states.
    image_positions int64 (B·T,): indices in B·P of the image tokens.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    states: torch.Tensor
    image_positions: torch.Tensor

    @property
    def length(self) -> int:
        """P, tokens."""
        return self.states.shape[1]


@dataclass(frozen=True)
class Sequences:
    """N padded sequences on the device.

    inputs_embeds (N, L, C); attention_mask int64 (N, L), 1 for real tokens; position_ids int64 (N, L);
    answer_positions int64 (A,): indices in N·L of the states that predict the answers' tokens, in reading order;
    answer_ids int64 (A,): these tokens, the labels of the caption loss.
    seg_positions int64 (N,): index in N·L of each sequence's [SEG]; empty when the segments have none.
    image_positions int64 (N·T,): indices in N·L of the image tokens; empty when they were left out.
    prefix, of_images int64 (N,): with packing "fork" the sequences above hold the segments alone; each goes on from
    the prefix of its image.
    """

    inputs_embeds: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    answer_positions: torch.Tensor
    answer_ids: torch.Tensor
    seg_positions: torch.Tensor
    image_positions: torch.Tensor
    prefix: Prefix | None = None
    of_images: torch.Tensor | None = None


@dataclass(frozen=True)
class RegionTokens:
    """The regions' tokens: `features` (Σ n_r, C), in region order, and the n_r."""

    features: torch.Tensor
    counts: list[int]


def build_sequences(
    vlm: VLM,
    segments: Sequence[Segment],
    image_features: torch.Tensor | None,
    regions: RegionTokens | None = None,
    *,
    padding: str = "right",
    max_length: int | None = None,
    prefix: Prefix | None = None,
) -> Sequences:
    """Lay out one sequence a segment. Everything is worked out on the host and copied over at once: nothing waits.

    image_features: (B, T, C), or None to leave the image's tokens out of every prefix. padding: `right` to train,
    `left` to generate. prefix: fork it instead of repeating it (`image_features` is then not read). Raises
    SequenceTooLongError, naming the segment, when one is longer than `max_length`.
    """
    tokens_per_image = 0 if image_features is None or prefix is not None else image_features.shape[1]
    prefix_ids = [] if prefix is not None else _prefix(vlm, tokens_per_image)
    offset = 0 if prefix is None else prefix.length
    rows = [_tokenise(vlm, segment, prefix_ids, regions) for segment in segments]
    longest = max(len(ids) for ids, _ in rows)
    if max_length is not None and offset + longest > max_length:
        worst = max(range(len(rows)), key=lambda i: len(rows[i][0]))
        raise SequenceTooLongError(
            f"{segments[worst].name or f'segment {worst}'} needs {offset + longest} tokens with its image; the limit "
            f"is {max_length}. Raise mask_caption.max_length or lower the vision-token budget."
        )
    ids_NL, mask_NL, answers_NL = _pad(rows, longest, padding, vlm.tokenizer.pad_token_id)
    answer_at = torch.nonzero(answers_NL.flatten())[:, 0]
    answer_ids = ids_NL.flatten()[answer_at]
    position_ids = offset + (mask_NL.cumsum(dim=1) - 1).clamp_min(0)
    image_at, region_at, seg_at = (_find(ids_NL, vlm, token) for token in (IMAGE_SLOT, REGION_SLOT, SEG))
    of_images = torch.tensor([segment.image for segment in segments])
    host = [ids_NL, mask_NL, position_ids, answer_at - 1, answer_ids, seg_at, image_at, region_at, of_images]
    ids_NL, mask_NL, position_ids, answer_positions, answer_ids, seg_at, image_at, region_at, of_images = to_device(
        host, _device(vlm)
    )
    embeds_NLC = vlm.embed(ids_NL)
    flat = embeds_NLC.flatten(0, 1)
    if image_features is not None and prefix is None:
        flat = flat.index_copy(0, image_at, _rows(image_features, of_images).to(flat.dtype))
    if regions is not None and region_at.numel():
        flat = flat.index_copy(0, region_at, _region_rows(segments, regions).to(flat.dtype))
    return Sequences(
        inputs_embeds=flat.view_as(embeds_NLC),
        attention_mask=mask_NL,
        position_ids=position_ids,
        answer_positions=answer_positions,
        answer_ids=answer_ids,
        seg_positions=seg_at,
        image_positions=image_at,
        prefix=prefix,
        of_images=of_images,
    )


def build_prefixes(vlm: VLM, image_features: torch.Tensor) -> Sequences:
    """One sequence an image that holds the prefix alone: what the image tokens' hidden states are read from."""
    segments = [Segment(image=index, prompt="") for index in range(image_features.shape[0])]
    return build_sequences(vlm, segments, image_features)


def _device(vlm: VLM) -> torch.device:
    return next(vlm.parameters()).device  # type: ignore[attr-defined]


def _tokenise(vlm: VLM, segment: Segment, prefix: list[int], regions: RegionTokens | None) -> tuple[list[int], int]:
    """Token ids with the region's slot repeated, and where the answer begins."""
    prompt = token_ids(vlm.tokenizer, segment.prompt)
    if segment.region is not None and regions is not None:
        prompt = _repeat(prompt, vlm.tokenizer.convert_tokens_to_ids(REGION_SLOT), regions.counts[segment.region])
    ids = prefix + prompt
    if segment.answer is None:
        return ids, len(ids)
    pieces = [segment.answer] if isinstance(segment.answer, str) else list(segment.answer)
    return ids + token_ids(vlm.tokenizer, _joined([*pieces, vlm.conversation.end])), len(ids)


def _joined(pieces: list[str | Words]) -> list[str | Words]:
    """Neighbouring template pieces in one, as a tokenizer may treat the start of a text apart."""
    joined: list[str | Words] = []
    for piece in pieces:
        if joined and isinstance(piece, str) and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _prefix(vlm: VLM, tokens_per_image: int) -> list[int]:
    ids = token_ids(vlm.tokenizer, vlm.conversation.prefix)
    return _repeat(ids, vlm.tokenizer.convert_tokens_to_ids(IMAGE_SLOT), tokens_per_image)


def _repeat(ids: list[int], slot: int, times: int) -> list[int]:
    return [token for id_ in ids for token in ([id_] * times if id_ == slot else [id_])]


def _pad(
    rows: list[tuple[list[int], int]], length: int, padding: str, pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.full((len(rows), length), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    answers = torch.zeros_like(ids, dtype=torch.bool)
    for row, (tokens, start) in enumerate(rows):
        offset = length - len(tokens) if padding == "left" else 0
        ids[row, offset : offset + len(tokens)] = torch.tensor(tokens)
        mask[row, offset : offset + len(tokens)] = 1
        answers[row, offset + start : offset + len(tokens)] = True
    return ids, mask, answers


def _find(ids_NL: torch.Tensor, vlm: VLM, token: str) -> torch.Tensor:
    """Indices in N·L of a special token, in reading order."""
    return torch.nonzero(ids_NL.flatten() == vlm.tokenizer.convert_tokens_to_ids(token))[:, 0]


def _rows(image_features: torch.Tensor, of_images: torch.Tensor) -> torch.Tensor:
    return image_features.index_select(0, of_images).flatten(0, 1)


def _region_rows(segments: Sequence[Segment], regions: RegionTokens) -> torch.Tensor:
    """Region tokens in the order in which the segments use them."""
    used = [segment.region for segment in segments if segment.region is not None]
    if used == list(range(len(regions.counts))):
        return regions.features
    parts = regions.features.split(regions.counts)
    return torch.cat([parts[region] for region in used])
