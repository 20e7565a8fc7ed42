"""Validation of conversations, videos, texts without an image and empty targets; numbers from the pixels alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from maskcap.data.batch import Batch
from maskcap.loops.base import Loop, LoopPrediction
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.dialogue import Dialogue
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.metrics.prediction import Prediction
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.used_images import only_images
from maskcap.training.validation import Validation
from tests.training.by_rote import GROUNDED, SAID, SHIFT, Follows, Given, Says, box, iou, spoken_batch, validated


@pytest.fixture
def talks() -> Batch:
    """See `spoken_batch`."""
    return spoken_batch()


def test_answers_are_scored_as_words_and_by_their_masks(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    values, validation = validated(tiny_model, talks)
    # "because" is "because." of the last turn; of the other answer "dog" and "on" and "a" of 5 and 6 words are right.
    assert values["answer_exact"] == 0.5
    assert values["answer_f1"] == pytest.approx((1 + 2 * 3 / (5 + 6)) / 2)
    assert values["answer_truncated"] == 0.5 and "caption_truncated" not in values
    assert values["gcg_miou"] == pytest.approx(iou()) and values["gcg_mask_recall"] == 1
    assert values["gcg_phrase_recall"] == 0.5 and values["gcg_seg_aligned"] == 1
    rows = {(row.key, row.region_id): row for row in validation.predictions if row.score != "phrases"}
    answer = rows["gcg/val/0", "answer"]
    assert (answer.question, answer.answer, answer.predicted_answer) == (GROUNDED.question, GROUNDED.answer, SAID[0])
    assert (rows["talk/val/2", "answer"].size, rows["talk/val/2", "answer"].truncated) == (None, True)
    dog = rows["gcg/val/0", "b"]
    assert (dog.score, dog.phrase, dog.iou) == ("grounded", "a dog", pytest.approx(iou())) and dog.predicted_rle
    assert all(Prediction.from_json(row.to_json()) == row for row in validation.predictions)


def test_a_phrase_is_scored_in_every_frame(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    values, validation = validated(tiny_model, talks)
    assert values["miou"] == pytest.approx((2 * iou() + 1) / 3)
    assert values["absent_accuracy"] == 1 and "no_target_accuracy" not in values
    rows = [row for row in validation.predictions if row.region_id == "c"]
    assert [(row.frame, row.phrase) for row in rows] == [(0, "the cat"), (1, "the cat"), (2, "the cat")]
    assert [row.iou for row in rows] == pytest.approx([iou(), iou(), 1])
    assert all(row.frame is None for row in validation.predictions if row.region_id != "c")


def test_a_phrase_without_a_target_is_no_frame_without_its_object(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    """The still's phrase means nothing, and something is found; the cat is rightly not found in the last frame."""
    mask1 = talks.mask1.clone()
    mask1[1] = 0
    found = LoopPrediction([1], ["a bird"], mask_logits=box(0, 0)[None] - 0.5)
    batch = replace(talks, mask1=mask1, empty=(False, True, False, False))
    values, _ = validated(tiny_model, batch, Given(found))
    assert (values["no_target_accuracy"], values["absent_accuracy"]) == (0, 1)
    pair = replace(talks, image2=talks.image1, mask2=mask1)
    other = Given(LoopPrediction([0, 1], ["a", "b"], mask_logits=mask1[:2] - 0.5, score="cross_frame"))
    values, _ = validated(tiny_model, pair, other)  # an object that the other frame does not show
    assert values["cross_frame_absent_accuracy"] == 1 and "cross_frame_no_target_accuracy" not in values


def test_pictures_of_answers_and_of_frames(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    _, validation = validated(tiny_model, talks)
    shown = {picture[3].region_id: picture for picture in validation.pictures}
    assert [picture[3].region_id for picture in validation.pictures] == ["answer", "c", "d"]  # the text has none
    image, true, predicted, row = shown["answer"]
    both = (talks.mask1[0] + talks.mask1[1]).numpy() > 0
    assert np.array_equal(true, both) and predicted is not None
    assert np.array_equal(predicted, np.roll(both, SHIFT, axis=1))
    assert (row.caption, row.predicted_caption, row.phrase) == (GROUNDED.answer, SAID[0], GROUNDED.question)
    assert shown["c"][3].frame == 0 and np.array_equal(shown["c"][1], talks.mask1[2].numpy() > 0)
    late = replace(talks, phrases=[(), (), ("cat",), ()])
    ahead = Follows().predict(None, late, None)
    assert ahead.mask_logits is not None and ahead.masks is not None
    later = replace(ahead, regions=[2], phrases=["cat"], mask_logits=ahead.mask_logits[1:2], masks=ahead.masks[1:2])
    second = Validation({"follows": Given(later, "phrases")}, None, meteor=False)
    second.update(tiny_model, late, 0)
    (frame,) = [picture for picture in second.pictures if picture[3].region_id == "c"]
    shades = late.frames[0].permute(1, 2, 0).numpy() * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]  # type: ignore[index]
    assert frame[3].frame == 1 and np.array_equal(frame[0], (shades * 255).round().astype(np.uint8))
    assert np.array_equal(frame[1], talks.frame_masks[0].numpy() > 0)  # type: ignore[index]


def test_batches_without_a_region_and_padding(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    text = only_images(talks, [2])
    assert not text.region_ids
    values, validation = validated(tiny_model, text)
    assert values["answer_exact"] == 1 and not [name for name in values if "iou" in name or "gcg" in name]
    assert [row.region_id for row in validation.predictions] == ["answer"] and not validation.pictures
    nothing, validation = validated(tiny_model, replace(talks, padding=(True,) * 3))
    assert nothing == {} and validation.predictions == [] and validation.pictures == []


def test_regions_of_a_conversation_that_nobody_held_have_rows(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    silent = Validation({"follows": Follows()}, None, meteor=False)
    silent.update(tiny_model, talks, 0)
    assert [row.region_id for row in silent.predictions] == ["a", "b", "c", "c", "c", "d"]


@pytest.mark.parametrize("captions_first", [True, False])
def test_captions_of_some_regions(tiny_model: MaskCaptionModel, talks: Batch, captions_first: bool) -> None:
    """Captions of b and d: of a only the answer speaks, c is not to be seen; b has a caption and is in the answer."""
    batch = replace(
        talks,
        caption=[None, "a dog", None, "a cup"],
        references=[(), ("a dog",), (), ("a cup",)],
        empty=(False, False, True, False),
    )
    some = Given(LoopPrediction([1, 3], captions=["a dog", "a hat"], truncated=[False, True]), "captions")
    loops: list[Loop] = [some, Says()] if captions_first else [Says(), some]
    validation = Validation({str(number): loop for number, loop in enumerate(loops)}, None, meteor=False)
    validation.update(tiny_model, batch, 0)
    values = validation.compute()
    assert (values["caption_truncated"], values["caption_exact"]) == (0.5, 0.5)
    rows = {row.region_id: row for row in validation.predictions if row.region_id != "answer"}
    assert list(rows) == ["a", "b", "c", "d"] and len(validation.predictions) == 6
    said = {name: (row.predicted_caption, row.truncated) for name, row in rows.items()}
    assert said == {"a": (None, None), "b": ("a dog", False), "c": (None, None), "d": ("a hat", True)}
    assert [row.score for row in rows.values()] == ["grounded", "grounded", None, None]
    shown = {picture[3].region_id: picture for picture in validation.pictures}
    assert [picture[3].region_id for picture in validation.pictures] == ["b", "answer", "c", "d"]
    _, true, predicted, row = shown["b"]  # its caption, with the mask of the answer's phrase about it
    assert (row.predicted_caption, row.phrase, row.iou) == ("a dog", "a dog", pytest.approx(iou()))
    assert predicted is not None and np.array_equal(predicted, np.roll(true, SHIFT, axis=1)) and predicted.any()
    assert shown["d"][2] is None and shown["d"][3].predicted_caption == "a hat"


def test_the_loop_captions_what_is_seen_and_no_phrase_of_an_answer(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    """mask → caption's own predictions: of b, which has a caption beside the answer, and of d."""
    captions = [None, "a dog", None, "a cup"]
    batch = replace(
        talks, caption=captions, references=[(), ("a dog",), (), ("a cup",)], empty=(False, False, True, False)
    )
    _, validation = validated(tiny_model.eval(), batch, MaskToCaption())
    rows = [row for row in validation.predictions if row.predicted_caption is not None]
    assert [row.region_id for row in rows] == ["b", "d"] and all(row.truncated is not None for row in rows)
    none = replace(batch, empty=(True,) * 4)
    _, validation = validated(tiny_model, none, MaskToCaption())
    assert all(row.predicted_caption is None for row in validation.predictions) and validation.predictions


def test_every_loop_takes_part(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    """The real loops, on all samples, on a text alone and on a grounded answer alone."""
    loops: dict[str, Loop] = {"dialogue": Dialogue(max_new_tokens=6), "phrases": CaptionToMask()}
    loops |= {"captions": MaskToCaption(), "boxes": PromptToMask()}
    validation = Validation(loops, None, meteor=False)
    validation.reset(["main", "text", "gcg"])
    for number, batch in enumerate((talks, only_images(talks, [2]), only_images(talks, [0]))):
        validation.update(tiny_model.eval(), batch, number)
    values = validation.compute()
    assert {"answer_exact", "gcg_miou", "gcg_phrase_recall", "miou", "prompt_miou", "answer_f1_text"} <= values.keys()
    assert {"gcg_seg_aligned_gcg", "prompt_miou_gcg"} <= values.keys() and "prompt_miou_text" not in values
    assert len([row for row in validation.predictions if row.region_id == "answer"]) == 4


def _rank(rank: int, folder: str, model: MaskCaptionModel, batch: Batch) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    share = only_images(batch, [0, 2]) if rank == 0 else only_images(batch, [1])
    values, validation = validated(model, share)
    torch.save((values, validation.predictions), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_log_what_one_does(tiny_model: MaskCaptionModel, talks: Batch, tmp_path: Path) -> None:
    whole, validation = validated(tiny_model, talks)
    mp.spawn(_rank, args=(str(tmp_path), tiny_model, talks), nprocs=2)  # type: ignore[attr-defined]
    for rank in (0, 1):
        values, gathered = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert values == pytest.approx(whole) and gathered == validation.predictions
