"""Mask → caption: the region's tokens in the prompt, cross-entropy on its caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskcap.loops.base import LoopOutput, LoopPrediction, Need, StepContext, nothing_to_learn, take
from maskcap.losses import caption_loss

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.mask_caption import EncodedImages, MaskCaptionModel


class MaskToCaption:
    """Learns the captions of the regions that have one; the others are left to other loops."""

    needs: Need | None = "captions"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> LoopOutput:
        """Mean cross-entropy of the answers' tokens. Logs `loss`, and `small_regions`: regions that no cell of the
        token grid sampled, described from their best-covered token."""
        chosen = [index for index, caption in enumerate(batch.caption) if caption is not None]
        if not chosen:
            return nothing_to_learn(model)
        region_image = take(batch.region_image, chosen)
        regions, small = model.region_tokens(context.encoded.tokens, take(batch.mask1, chosen), region_image)
        sequences = model.describe_sequences(
            context.encoded,
            regions,
            batch.images_of(chosen),
            [batch.question[index] for index in chosen],
            [batch.caption[index] or "" for index in chosen],
            keep_image=context.keep_image(),
            names=batch.names_of(chosen),
        )
        states = model.vlm.hidden_states(sequences).flatten(0, 1)  # type: ignore[operator]
        logits = model.vlm.head(states.index_select(0, sequences.answer_positions))  # type: ignore[operator]
        loss = caption_loss(logits, sequences.answer_ids)
        return LoopOutput(loss, {"loss": loss.detach(), "small_regions": small.float()})

    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """Greedy captions of all regions."""
        regions = list(range(len(batch.region_ids)))
        said = model.generate_captions(
            batch.image1,
            batch.mask1,
            batch.region_image,
            questions=batch.question,
            encoded=encoded,
            names=batch.names_of(regions),
        )
        return LoopPrediction(regions, captions=said.texts, truncated=said.truncated)
