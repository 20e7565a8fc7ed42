"""Mask → caption: the region's tokens in the prompt, cross-entropy on its caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskcap.loops.base import Ask, Loop, LoopOutput, LoopPrediction, Need, StepContext, nothing_to_learn
from maskcap.loops.by_entry import answer_part
from maskcap.loops.outputs import Over
from maskcap.models.transfer import take

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading
    from maskcap.models.vlm.interface import Generated


class MaskToCaption(Loop):
    """Learns the captions of the regions that have one; the others are left to other loops."""

    needs: Need | None = "captions"
    same_on_every_rank = True
    generates = True

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def ask(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> Ask:
        """Mean cross-entropy of the answers' tokens. Logs `loss`, and `small_regions`: regions that no cell of the
        token grid sampled, described from their best-covered token."""
        keep_image = context.keep_image()  # drawn by every rank, also by one without captions
        learned = self.regions_of(batch, context.progress)
        chosen = context.or_stand_in(learned)
        if not chosen:
            return nothing_to_learn(model)
        region_image = take(batch.region_image, chosen)
        regions, small = model.region_tokens(context.encoded.tokens, take(batch.mask1, chosen), region_image)
        questions = model.describe_questions(
            regions,
            batch.images_of(chosen),
            [batch.question[index] for index in chosen],
            [batch.caption[index] or "" for index in chosen],
            keep_image=keep_image,
            names=batch.names_of(chosen),
        )

        entries = batch.entries_of(learned) if context.by_entry else []

        def finish(reading: Reading | None) -> LoopOutput:
            """The captions' cross-entropy."""
            assert reading is not None
            loss, by_entry = answer_part(model, context.encoded, reading, 1.0, entries)
            logs = {"loss": loss.detach(), "small_regions": small.float()}
            tokens: dict[Over, int] = {"answers": reading.answer_ids.numel() if learned else 0}
            return LoopOutput(loss, logs, {"loss": (1.0, loss)}, {"loss": "answers"}, tokens, by_entry)

        return Ask(finish, questions)

    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """Greedy captions of all regions that are to be seen, but for those that only conversations speak of."""
        regions = described(batch)
        said = greedy_captions(model, batch, encoded)
        return LoopPrediction(regions, captions=said.texts, truncated=said.truncated)


def described(batch: Batch) -> list[int]:
    """The regions of a validation batch that are captioned."""
    images = batch.images_of(range(len(batch.region_ids)))
    spoken = {r for r, image in enumerate(images) if batch.caption[r] is None and any(batch.turns[image : image + 1])}
    return [r for r in range(len(images)) if r not in spoken and not batch.is_empty(r)]


def greedy_captions(
    model: MaskCaptionModel, batch: Batch, encoded: EncodedImages, default_question: bool = False
) -> Generated:
    """Captions of the `described` regions of a validation batch, as answers to their questions; written once for all
    loops.

    default_question: ask each region for its description, also where the data has another question.
    """
    regions = described(batch)
    asked = [batch.question[region] for region in regions]
    own = any(question is not None for question in asked) and default_question
    if encoded.greedy is not None and not own:
        return encoded.greedy
    questions = [None] * len(regions) if own else asked
    masks, region_image = take(batch.mask1, regions), take(batch.region_image, regions)
    said = model.generate_captions(encoded, masks, region_image, questions, names=batch.names_of(regions))
    if not own:
        encoded.greedy = said
    return said
