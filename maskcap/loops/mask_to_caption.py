"""Mask → caption: the region's tokens in the prompt, cross-entropy on its caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskcap.loops.base import Ask, Loop, LoopOutput, LoopPrediction, Need, StepContext, nothing_to_learn, take

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading


class MaskToCaption(Loop):
    """Learns the captions of the regions that have one; the others are left to other loops."""

    needs: Need | None = "captions"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def ask(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> Ask:
        """Mean cross-entropy of the answers' tokens. Logs `loss`, and `small_regions`: regions that no cell of the
        token grid sampled, described from their best-covered token."""
        chosen = [index for index, caption in enumerate(batch.caption) if caption is not None]
        if not chosen:
            return nothing_to_learn(model)
        region_image = take(batch.region_image, chosen)
        regions, small = model.region_tokens(context.encoded.tokens, take(batch.mask1, chosen), region_image)
        questions = model.describe_questions(
            regions,
            batch.images_of(chosen),
            [batch.question[index] for index in chosen],
            [batch.caption[index] or "" for index in chosen],
            keep_image=context.keep_image(),
            names=batch.names_of(chosen),
        )

        def finish(reading: Reading | None) -> LoopOutput:
            assert reading is not None
            loss = model.answer_loss(context.encoded, reading)
            return LoopOutput(loss, {"loss": loss.detach(), "small_regions": small.float()})

        return Ask(finish, questions)

    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """Greedy captions of all regions."""
        regions = list(range(len(batch.region_ids)))
        said = model.generate_captions(
            encoded, batch.mask1, batch.region_image, batch.question, names=batch.names_of(regions)
        )
        return LoopPrediction(regions, captions=said.texts, truncated=said.truncated)
