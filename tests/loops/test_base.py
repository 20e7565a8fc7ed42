"""What loops share: predictions without some regions, defaults of a loop."""

from __future__ import annotations

import torch

from maskcap.data.batch import Batch
from maskcap.loops.base import LoopPrediction
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.loops.outputs import Answer
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.models.mask_caption import MaskCaptionModel


def test_a_prediction_without_some_regions_keeps_the_rest_as_it_was() -> None:
    logits = torch.arange(12.0).view(3, 2, 2)
    whole = LoopPrediction([4, 2, 4], ["a", "b", "c"], ["d", "e", "f"], [True, False, True], logits, "cross_frame")
    assert whole.without({1, 3}) is whole
    rest = whole.without({4})
    assert (rest.regions, rest.phrases, rest.captions, rest.truncated) == ([2], ["b"], ["e"], [False])
    assert rest.score == "cross_frame" and rest.mask_logits is not None and rest.mask_logits.equal(logits[1:2])
    none = LoopPrediction([0], score="cycle").without({0})
    assert none == LoopPrediction([], score="cycle")


def test_what_asked_for_the_masks(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    model = tiny_model.eval()
    encoded = model.encode(tiny_batch.image1)
    loops = (CaptionToMask(), PromptToMask(), MaskToCaption())
    with torch.no_grad():
        scores = [loop.predict(model, tiny_batch, encoded).score for loop in loops]
    assert scores[:2] == ["phrases", "prompts"]
    assert [loop.generates for loop in loops] == [False, False, True]
    assert all(loop.state_dict() == {} for loop in loops)
    loops[0].load_state_dict({"anything": 1})  # of a run that had more to keep


def test_answers_of_samples_that_only_fill_a_place_are_left_out() -> None:
    answers = [Answer(0, "why?", "so"), Answer(2, "who?", "me")]
    whole = LoopPrediction([1, 3], mask_logits=torch.zeros(2, 4, 4), masks=[1, 7], answers=answers)
    assert whole.without(set(), {1}) is whole
    rest = whole.without({1}, {2})
    assert rest.answers == answers[:1] and rest.masks == [7] and rest.regions == [3]
