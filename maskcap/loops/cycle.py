"""The cycle: mask → pseudo caption → mask, for regions without words.

Shapes: r regions that take part, A tokens of their pseudo captions, C the language model's width.

1. A caption is rolled out for each region, token by token, without gradient.
2. One parallel reading of the rolled-out captions, beside the other loops' questions, gives their logits with gradient.
3. Straight-through Gumbel-softmax makes embeddings of them (`models/relaxation.py`), which stand as the phrase in
   caption → mask. The mask is compared with the one that was described; of a pair of frames, with the other frame's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from maskcap.errors import ConfigError
from maskcap.loops.asked_regions import AskedRegions
from maskcap.loops.base import Ask, Loop, LoopOutput, LoopPrediction, StepContext, nothing_to_learn
from maskcap.loops.by_entry import ByEntry
from maskcap.loops.mask_to_caption import described, greedy_captions
from maskcap.loops.outputs import Over, weighted_sum
from maskcap.loops.phrase_losses import PHRASE_LOSSES, phrase_losses
from maskcap.loops.rollout import Rolled, describe_captions, forget_casts, naming_the_setting, roll_out
from maskcap.models.gumbel import GumbelNoise, TokenChoice, forbidden_tokens, word_starts
from maskcap.models.reference import FrozenCopy, ReferenceKind, adapters_of, reference_states
from maskcap.models.relaxation import Relaxation, Relaxed, beyond, relax
from maskcap.models.transfer import take, to_device

if TYPE_CHECKING:
    from maskcap.data.batch import Batch
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.reading import Reading


# What each loss, and each log beside them, is a mean over.
_MADE: dict[str, Over] = {"kl": "tokens", "repeated": "tokens", "entropy": "tokens", "too_long": "regions"}
_SAID: dict[str, Over] = dict.fromkeys(("length", "distinct", "truncated", "empty", "temperature"), "regions")
LOSSES: dict[str, Over] = {**_MADE, **_SAID, **dict.fromkeys(PHRASE_LOSSES, "spoken"), "answer": "answers"}


@dataclass(eq=False)
class Cycle(Loop):
    """Learns from masks alone, once captions and phrases are learned from data that has words.

    start: share of the run before which only the other loops learn; ramp: share over which the loss then grows from
    nothing to its weight. weight 0: the loop only validates. regions: `uncaptioned`, or `all`.

    The draw. sampled: captions are drawn from the model's distribution; false: greedy, without noise. top_k: among the
    k likeliest tokens, None for all. max_new_tokens: longest pseudo caption.
    The relaxation. hard: straight-through, the phrase is made of the drawn tokens; false: of mean embeddings.
    temperature, final_temperature: of the softmax, falling geometrically from the cycle's start to the run's end; None:
    it stays. stop_gradient: the drawn words stand as they are, so that only caption → mask learns (self-training).
    What keeps the words words. reference: `copy`, the captioner as it was at the cycle's start, or `adapters_off`, the
    model without its adapters (what else trains, embeddings and projector say, is as it is now); kl_weight: of KL(model
    ‖ reference), mean over tokens, in nats. length_weight: of the expected tokens beyond length_target.
    repetition_weight: of the probability of tokens that the caption has already, mean over tokens. The rest as in
    CaptionToMask. Raises ConfigError for values that contradict.
    """

    needs = None
    generates = True

    weight: float = 1.0
    start: float = 0.0
    ramp: float = 0.0
    regions: Literal["uncaptioned", "all"] = "uncaptioned"
    sampled: bool = True
    top_k: int | None = None
    max_new_tokens: int = 32
    hard: bool = True
    temperature: float = 1.0
    final_temperature: float | None = None
    stop_gradient: bool = False
    reference: ReferenceKind | None = None
    kl_weight: float = 0.0
    length_weight: float = 0.0
    length_target: int = 16
    repetition_weight: float = 0.0
    ce_weight: float = 2.0
    dice_weight: float = 0.5
    answer_weight: float = 0.0
    grounding_weight: float = 1.0
    contrast_weight: float = 1.0
    sampled_points: int | None = None

    _copy: FrozenCopy | None = field(default=None, init=False)
    _saved_copy: dict[str, torch.Tensor] | None = field(default=None, init=False)
    _vocabulary: tuple[torch.Tensor, torch.Tensor | None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in ("temperature", "final_temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"loops.cycle.{name}={value}: take a number over 0")
        for name in ("kl_weight", "length_weight", "length_target", "repetition_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"loops.cycle.{name}={getattr(self, name)}: take 0 or more")
        if not 0 <= self.start < 1 or self.ramp < 0 or self.start + self.ramp > 1 + 1e-9:  # .8 and .2 are 1
            raise ConfigError(
                f"loops.cycle.start={self.start}, ramp={self.ramp}: shares of the run, together 1 at most, and a start "
                "below 1 (weight=0 leaves the cycle to validation)"
            )
        if self.regions not in ("uncaptioned", "all"):
            raise ConfigError(f"loops.cycle.regions={self.regions!r}: expected uncaptioned or all")
        if self.reference not in (None, "copy", "adapters_off"):
            raise ConfigError(f"loops.cycle.reference={self.reference!r}: expected copy, adapters_off or null")
        if self.stop_gradient and not self.hard:
            raise ConfigError("loops.cycle.stop_gradient trains on the drawn words: it needs hard=true")
        if self.kl_weight and self.reference is None:
            raise ConfigError(f"loops.cycle.kl_weight={self.kl_weight} needs a reference: copy or adapters_off")
        if self.max_new_tokens < 1 or (self.top_k is not None and self.top_k < 1):
            raise ConfigError(f"loops.cycle: max_new_tokens={self.max_new_tokens}, top_k={self.top_k}: take at least 1")

    @property
    def wordless(self) -> bool:
        """Whether it learns from regions without captions alone."""
        return self.regions == "uncaptioned"

    def state_dict(self) -> dict[str, Any]:
        """The frozen copy's weights, once there is one."""
        if self.reference != "copy":
            return {}
        if self._copy is None:
            return {} if self._saved_copy is None else {"copy": self._saved_copy}
        return {"copy": self._copy.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes effect with the next step, which knows the model."""
        self._copy, self._saved_copy = None, state.get("copy") if self.reference == "copy" else None

    def check(self, model: MaskCaptionModel) -> None:
        """Raises ConfigError for a reference with its adapters off of a model without."""
        if self.reference == "adapters_off":
            adapters_of(model.vlm)

    def regions_of(self, batch: Batch, progress: float) -> list[int]:
        """Those without a caption, or all; none before the start."""
        if progress < self.start:
            return []
        shown = [r for r in range(len(batch.region_ids)) if not batch.is_empty(r)]
        return [r for r in shown if self.regions == "all" or batch.caption[r] is None]

    def ask(self, model: MaskCaptionModel, batch: Batch, context: StepContext) -> Ask:
        """Weighted sum of caption → mask's losses on the pseudo captions and of what keeps them words.

        Logs each of them, and of the pseudo captions: `entropy` in nats and `kl` a token, `length` in tokens,
        `distinct` (share; with several ranks the weighted mean of each one's own), `truncated` and `empty` (shares; an
        empty one asks for no mask), `temperature`, `regions`; `small_regions` as MaskToCaption.
        """
        if context.progress < self.start:
            return nothing_to_learn(model)
        keep_image = context.keep_image()  # drawn by every rank, also by one without such regions
        self._freeze_copy(model)
        chosen = self.regions_of(batch, context.progress)
        if not chosen:
            return nothing_to_learn(model)
        mask1, images = take(batch.mask1, chosen), batch.images_of(chosen)
        regions, small = model.region_tokens(context.encoded.tokens, mask1, take(batch.region_image, chosen))
        draw = self._draw(model, context, len(chosen), mask1.device)
        names = batch.names_of(chosen)
        rolled = roll_out(model, context.encoded, regions, mask1, images, draw, self.max_new_tokens, names)
        if context.use_segmenter and batch.image2 is None:
            context.encoded.want_masks(images)
        known = self._reference(model, rolled, names)
        questions = model.describe_questions(
            regions,
            images,
            [None] * len(chosen),
            rolled.answers,
            names=names,
            image_states=model.grounding is not None and batch.image2 is None,
        )

        def finish(reading: Reading | None) -> LoopOutput:
            """Relaxes the captions and segments by them."""
            assert reading is not None and self._vocabulary is not None
            softness = self._temperature(context.progress)
            relaxation = Relaxation(draw, softness, self.hard, self._vocabulary[1], self.stop_gradient)
            relaxed = relax(model.vlm, reading.answer_states, rolled.said.ids, relaxation, known)
            context.encoded.work.answers += relaxed.entropy.numel()
            parts = self._stay_words(rolled, relaxed)
            counts: dict[Over, int] = {"tokens": relaxed.entropy.numel(), "regions": len(chosen)}
            by_entry: ByEntry = {}
            if rolled.spoken:
                further, by_entry, counts["answers"] = self._segment(
                    model, batch, context, chosen, rolled, relaxed, keep_image
                )
                parts, counts["spoken"] = parts | further, len(rolled.spoken)
            output = weighted_sum(parts, LOSSES, counts, by_entry)
            ramp = min(1.0, (context.progress - self.start) / self.ramp) if self.ramp else 1.0
            logs = describe_captions(rolled, relaxed.entropy, relaxation.temperature)
            logs = output.logs | logs | {"small_regions": small.float()}
            ramped = {name: (weight * ramp, value) for name, (weight, value) in parts.items()}
            return replace(output, loss=output.loss * ramp, logs=logs, parts=ramped)

        return Ask(finish, questions)

    def contrasts(self, model: MaskCaptionModel, progress: float) -> bool:
        """With a grounding map, from the start on."""
        return model.grounding is not None and progress >= self.start

    def predict(self, model: MaskCaptionModel, batch: Batch, encoded: EncodedImages) -> LoopPrediction:
        """Greedy captions of all regions, and mask logits by them: in their image, or in a pair's other frame."""
        said = greedy_captions(model, batch, encoded, default_question=True)
        score = "cycle" if batch.image2 is None else "cross_frame"
        regions = described(batch)
        image1, seen = batch.image1, encoded
        if batch.image2 is not None:
            image1, seen = batch.image2, model.encode(batch.image2, batch.sizes)
        names = batch.names_of(regions)
        region_image = take(batch.region_image, regions)
        logits = model.segment(image1, said.texts, region_image, encoded=seen, names=names)
        return LoopPrediction(regions, said.texts, said.texts, said.truncated, logits, score)

    def _freeze_copy(self, model: MaskCaptionModel) -> None:
        """On every rank at the same step, with or without regions: the copies must be equal."""
        if self.reference == "copy" and self._copy is None:
            self._copy = FrozenCopy(model)
            if self._saved_copy is not None:
                self._copy.load_state_dict(self._saved_copy)
                self._saved_copy = None

    def _stay_words(self, rolled: Rolled, relaxed: Relaxed) -> dict[str, tuple[float, torch.Tensor]]:
        """What keeps the pseudo captions words; each loss with its weight."""
        return {
            "kl": (self.kl_weight, relaxed.divergence.mean()),
            "too_long": (self.length_weight, beyond(relaxed, rolled.said.ids, self.length_target)),
            "repeated": (self.repetition_weight, relaxed.repeated.mean()),
        }

    def _segment(
        self,
        model: MaskCaptionModel,
        batch: Batch,
        context: StepContext,
        chosen: Sequence[int],
        rolled: Rolled,
        relaxed: Relaxed,
        keep_image: bool,
    ) -> tuple[dict[str, tuple[float, torch.Tensor]], ByEntry, int]:
        """Caption → mask of the regions with words, by these words' embeddings; each loss with its weight, what they
        are for each entry, and the answers' tokens."""
        phrases = rolled.phrases(relaxed.embeds)
        spoken = [chosen[row] for row in rolled.spoken]
        encoded, images = context.encoded, batch.images_of(spoken)
        mask, region_image = take(batch.mask1, spoken), take(batch.region_image, spoken)
        if batch.image2 is not None and batch.mask2 is not None:
            encoded, images = _other_frames(model, batch, context, images)
            mask = take(batch.mask2, spoken)
            (region_image,) = to_device([torch.tensor(images)], mask.device)
        states = model.grounding is not None and encoded is not context.encoded
        names = [f"the pseudo caption of {name}" for name in batch.names_of(spoken)]
        questions = model.spoken_questions(phrases, images, keep_image, names, image_states=states)
        with naming_the_setting(self.max_new_tokens):
            (reading,) = model.read(encoded, [questions])
        texts = [rolled.said.texts[row] for row in rolled.spoken]
        entries = tuple(batch.entries_of(spoken)) if context.by_entry else ()
        asked = AskedRegions(texts, mask, region_image, entries=entries)
        losses, by_entry = phrase_losses(self, model, asked, reading, encoded, context)
        return losses, by_entry, reading.answer_ids.numel()

    def _temperature(self, progress: float) -> float:
        done = (progress - self.start) / (1 - self.start)
        final = self.temperature if self.final_temperature is None else self.final_temperature
        return self.temperature * (final / self.temperature) ** min(1.0, done)

    def _draw(self, model: MaskCaptionModel, context: StepContext, regions: int, device: torch.device) -> TokenChoice:
        """How this step's captions are drawn: by noise of its own."""
        if self._vocabulary is None or self._vocabulary[0].device != device:
            starts = word_starts(model.vlm)
            forbidden = forbidden_tokens(model.vlm).to(device)
            self._vocabulary = forbidden, None if starts is None else starts.to(device)
        forbidden, _ = self._vocabulary
        seed = int(torch.randint(2**52, (), generator=context.noise))
        noise = GumbelNoise(seed, regions, forbidden.numel(), device) if self.sampled else None
        return TokenChoice(forbidden, self.top_k, noise)

    def _reference(
        self, model: MaskCaptionModel, rolled: Rolled, names: Sequence[str]
    ) -> tuple[Any, torch.Tensor] | None:
        """The reference captioner's VLM and its states for these captions."""
        if self.reference is None:
            return None
        frozen, mask1, images = rolled.encoded, rolled.mask1, rolled.images
        known = reference_states(self._copy, model, frozen, mask1, images, rolled.answers, names)
        forget_casts()
        return known


def _other_frames(
    model: MaskCaptionModel, batch: Batch, context: StepContext, images: Sequence[int]
) -> tuple[EncodedImages, list[int]]:
    """The other frames of these images, each once, and each one's place among them."""
    assert batch.image2 is not None
    used = sorted(set(images))
    encoded = model.encode(take(batch.image2, used), [batch.sizes[image] for image in used])
    encoded.work = context.encoded.work
    return encoded, [used.index(image) for image in images]
