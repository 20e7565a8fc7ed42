"""Dialogue: conversations of several turns about an image, its regions or a video, with grounded answers.

Shapes: s samples with a conversation, S [SEG]s in their answers, M low-res mask side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from maskcap.data.record import Phrase, Turn
from maskcap.data.turns import grounded_regions, named_regions
from maskcap.loops.asked_regions import AskedRegions
from maskcap.loops.base import Ask, Loop, LoopOutput, LoopPrediction, StepContext, nothing_to_learn
from maskcap.loops.by_entry import answer_part
from maskcap.loops.outputs import Answer, weighted_sum
from maskcap.loops.phrase_losses import PHRASE_LOSSES, seg_losses
from maskcap.models.dialogue import answered, grounded_phrases
from maskcap.models.transfer import take, to_device

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading
    from maskcap.models.segments import Questions, RegionTokens
    from maskcap.models.vlm.interface import Generated

# What a rank without a conversation reads, where all ranks must run the same layers: one [SEG] of the first region.
_STAND_IN = (Turn("segment", "it", (Phrase(0, 2, 0),)),)


@dataclass(eq=False)
class Dialogue(Loop):
    """Learns the answers of conversations, and the masks of the phrases in them, one for each [SEG].

    answer_weight: of the cross-entropy of the answers' tokens. ce_weight, dice_weight, grounding_weight,
    contrast_weight, sampled_points: of the masks, as in CaptionToMask. max_new_tokens: longest answer in validation;
    None: the model's own.
    """

    needs = "turns"
    same_on_every_rank = True
    generates = True

    weight: float = 1.0
    answer_weight: float = 1.0
    ce_weight: float = 2.0
    dice_weight: float = 0.5
    grounding_weight: float = 1.0
    contrast_weight: float = 1.0
    sampled_points: int | None = None
    max_new_tokens: int | None = None

    def regions_of(self, batch: Batch, progress: float) -> list[int]:
        """The regions that the conversations speak of."""
        talks = _talks(batch, self.images_of(batch, progress))
        return sorted({region for talk in talks for region in (*talk.shown, *talk.grounded)})

    def images_of(self, batch: Batch, progress: float) -> list[int]:
        """The samples with a conversation."""
        return [image for image, turns in enumerate(batch.turns) if turns]

    def ask(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> Ask:
        """Weighted sum of the losses above; each is logged by its name. A batch whose answers have no [SEG] has no
        mask losses: on several ranks the means are over the others' masks."""
        keep_image = context.keep_image()  # drawn by every rank, also by one without conversations
        talks = _talks(batch, self.images_of(batch, context.progress))
        learned = len(talks)
        if context.stand_ins and not any(talk.grounded for talk in talks):
            talks.append(_Talk(0, _STAND_IN, [], [0]))
        if not talks:
            return nothing_to_learn(model)
        questions = _questions(model, batch, context.encoded, talks, keep_image=keep_image)
        segs = [region for talk in talks for region in talk.grounded]
        stand_in = not any(talk.grounded for talk in talks[:learned])
        asked = AskedRegions.of(batch, segs, _phrases(talks), stand_in=stand_in, by_entry=context.by_entry)
        if context.use_segmenter and segs:
            context.encoded.want_masks(batch.images_with(segs))

        def finish(reading: Reading | None) -> LoopOutput:
            """The losses of the conversations' reading."""
            assert reading is not None
            own = reading.part(reading.first, reading.first + learned)
            counts = asked.counts(own)
            parts, by_entry = {}, {}
            if segs:
                parts, by_entry = seg_losses(self, model, asked, reading.seg_states, context.encoded, context)
            entries = [batch.entries[talk.image] for talk in talks] if context.by_entry and learned else []
            loss, text = answer_part(model, context.encoded, own if learned else reading, self.answer_weight, entries)
            counts["answers"] = own.answer_ids.numel() if learned else 0
            return weighted_sum({"answer": (self.answer_weight, loss), **parts}, PHRASE_LOSSES, counts, text | by_entry)

        return Ask(finish, questions)

    def contrasts(self, model: MaskCaptionModel, progress: float) -> bool:
        """With a grounding map."""
        return model.grounding is not None

    @torch.no_grad()
    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """The answer to each sample's last question, token by token, and a mask for each [SEG] in it."""
        talks = _talks(batch, self.images_of(batch, 1.0))
        if not talks:
            return LoopPrediction([])
        questions = _questions(model, batch, encoded, talks, open_last=True)
        room = self.max_new_tokens or model.max_new_tokens  # what is said must fit the limit to be read again
        said = model.generate(encoded, questions, room, reserve=room)
        phrases = [grounded_phrases(model.vlm.tokenizer, ids) for ids in said.ids]
        masks = _answered_masks(model, batch, encoded, questions, said, phrases)
        answers = [
            Answer(talk.image, talk.turns[-1].question, text, cut, tuple(each), mask)
            for talk, text, cut, each, mask in zip(talks, said.marked, said.truncated, phrases, masks, strict=True)
        ]
        return LoopPrediction([], answers=answers)


@dataclass(frozen=True)
class _Talk:
    """A sample's conversation. shown: the batch's regions that its questions name; grounded: that of each [SEG]."""

    image: int
    turns: tuple[Turn, ...]
    shown: list[int]
    grounded: list[int]


def _talks(batch: Batch, images: Sequence[int]) -> list[_Talk]:
    talks = []
    for image in images:
        turns, regions = batch.turns[image], batch.regions_in(image)
        shown = [regions[number] for number in named_regions(turns)]
        talks.append(_Talk(image, turns, shown, [regions[number] for number in grounded_regions(turns)]))
    return talks


def _phrases(talks: Sequence[_Talk]) -> list[str]:
    """The words of each [SEG]'s phrase."""
    turns = [turn for talk in talks for turn in talk.turns]
    return [turn.answer[phrase.start : phrase.end] for turn in turns for phrase in turn.phrases]


def _questions(
    model: MaskCaptionModel,
    batch: Batch,
    encoded: EncodedImages,
    talks: Sequence[_Talk],
    *,
    keep_image: bool = True,
    open_last: bool = False,
) -> Questions:
    """What the conversations ask of the language model. A sample without an image has none in its prompt, but where it
    stands in."""
    shown = [region for talk in talks for region in talk.shown]
    tokens: RegionTokens | None = None
    if shown:
        tokens, _ = model.region_tokens(encoded.tokens, take(batch.mask1, shown), take(batch.region_image, shown))
    rows, first = [], 0
    for talk in talks:
        rows.append(range(first, first + len(talk.shown)))
        first += len(talk.shown)
    return model.dialogue_questions(
        [talk.turns for talk in talks],
        [talk.image for talk in talks],
        tokens,
        rows,
        [keep_image and (talk.turns is _STAND_IN or not batch.is_blank(talk.image)) for talk in talks],
        [batch.keys[talk.image] for talk in talks],
        open_last=open_last,
    )


def _answered_masks(
    model: MaskCaptionModel,
    batch: Batch,
    encoded: EncodedImages,
    questions: Questions,
    said: Generated,
    phrases: Sequence[Sequence[str]],
) -> list[torch.Tensor | None]:
    """The masks (p, M, M) in image1 of each generated answer's p [SEG]s; None for an answer without."""
    if not any(phrases):
        return [None] * len(phrases)
    (reading,) = model.read(encoded, [answered(questions, said.ids)])
    images = [segment.image for segment, each in zip(questions.segments, phrases, strict=True) for _ in each]
    states = _last_states(reading, [len(each) for each in phrases])
    encoded.want_masks(sorted(set(images)))
    (region_image,) = to_device([torch.tensor(images)], batch.device)
    logits = model.masks_of(encoded, states, region_image).split([len(each) for each in phrases])
    return [part if len(part) else None for part in logits]


def _last_states(reading: Reading, wanted: Sequence[int]) -> torch.Tensor:
    """Of each segment the states of its last `wanted` [SEG]s: those before are of earlier turns."""
    rows, first = [], 0
    for count, last in zip(reading.seg_counts, wanted, strict=True):
        rows += range(first + count - last, first + count)
        first += count
    return take(reading.seg_states, rows)
