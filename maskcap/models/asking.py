"""What the loops ask of the language model, in the words of its conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maskcap.models.conversation import Conversation, Tokens, Words
from maskcap.models.dialogue import dialogue_segment
from maskcap.models.segments import Questions, RegionTokens, one_turn

if TYPE_CHECKING:
    from maskcap.data.record import Turn
    from maskcap.models.grounding import GroundingHead


class Asking:
    """The part of MaskCaptionModel that makes questions; the rest of it reads them."""

    vlm: Any
    grounding: GroundingHead | None

    def describe_questions(
        self,
        regions: RegionTokens,
        region_image: Sequence[int],
        questions: Sequence[str | None],
        captions: Sequence[str | Tokens] | None = None,
        keep_image: bool = True,
        names: Sequence[str] | None = None,
        image_states: bool = False,
    ) -> Questions:
        """Mask → caption; `captions` None leaves the answers to be generated. names: of the regions, for errors.

        image_states: whether the states at the images' tokens are wanted from the same reading.
        """
        conversation: Conversation = self.vlm.conversation
        segments = [
            one_turn(
                image,
                conversation.describe_prompt(question),
                None if captions is None else [_said(captions[r])],
                (r,),
                keep_image,
                "" if names is None else names[r],
            )
            for r, (image, question) in enumerate(zip(region_image, questions, strict=True))
        ]
        return Questions(segments, regions, image_states)

    def spoken_questions(
        self,
        phrases: RegionTokens,
        region_image: Sequence[int],
        keep_image: bool = True,
        names: Sequence[str] | None = None,
        image_states: bool = False,
    ) -> Questions:
        """As `phrase_questions`, of phrases that come as embeddings: `features` (Σ n_r, C), n_r tokens each."""
        conversation: Conversation = self.vlm.conversation
        prompt, answer = conversation.spoken_prompt, conversation.segment_answer
        segments = [
            one_turn(image, prompt, answer, (row,), keep_image, "" if names is None else names[row])
            for row, image in enumerate(region_image)
        ]
        return Questions(segments, phrases, image_states)

    def phrase_questions(
        self,
        phrases: Sequence[str],
        region_image: Sequence[int],
        keep_image: bool = True,
        names: Sequence[str] | None = None,
    ) -> Questions:
        """Caption → mask: "segment this phrase" and its answer with [SEG].

        The template fixes the answer, so [SEG] is given, not generated: one forward, in training and in evaluation.
        """
        conversation: Conversation = self.vlm.conversation
        segments = [
            one_turn(
                image,
                conversation.segment_prompt(phrase),
                conversation.segment_answer,
                keep_image=keep_image,
                name=f"phrase {phrase!r}" if names is None else names[row],
            )
            for row, (image, phrase) in enumerate(zip(region_image, phrases, strict=True))
        ]
        return Questions(segments, image_states=self.grounding is not None)

    def dialogue_questions(
        self,
        turns: Sequence[Sequence[Turn]],
        images: Sequence[int],
        regions: RegionTokens | None,
        shown: Sequence[Sequence[int]],
        keep_image: Sequence[bool],
        names: Sequence[str],
        open_last: bool = False,
    ) -> Questions:
        """Conversations of several turns, each behind prefix images[s].

        shown[s]: the rows of `regions` of those that the questions of conversation s name, in ascending order of their
        numbers; they are introduced before its first question, as 1, 2, …. open_last: the last answers are left to be
        generated (see `dialogue.answered`). Each phrase of an answer has a [SEG] behind it. Raises ValueError where
        `shown` has another number of regions.
        """
        conversation: Conversation = self.vlm.conversation
        segments = [
            dialogue_segment(conversation, *each, open_last=open_last)
            for each in zip(turns, images, shown, keep_image, names, strict=True)
        ]
        grounded = any(turn.phrases for dialogue in turns for turn in dialogue)
        return Questions(segments, regions, grounded and self.grounding is not None)


def _said(caption: str | Tokens) -> Words | Tokens:
    return caption if isinstance(caption, Tokens) else Words(caption)
