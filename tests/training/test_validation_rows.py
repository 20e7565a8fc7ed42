"""Masks that the model's own captions asked for: their scores, their rows, their pictures; checked with numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from maskcap.data.batch import Batch
from maskcap.loops.base import Ask, Loop, LoopPrediction, Need, nothing_to_learn
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.loops.outputs import Score
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.metrics.prediction import Prediction
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.validation import Validation
from maskcap.training.validation_rows import caption_counts

WORDS = ("a thing", "a thing", "one big  blue cross")  # 2, 2 and 4 words; 2 texts


class OwnWords(Loop):
    """Says WORDS of the regions a, b, c and "finds" the true mask moved right by `shift` pixels."""

    needs: Need | None = None
    generates = True

    def __init__(self, score: Score = "cycle", shift: int = 4, captions: bool = False) -> None:
        self.weight, self.shift, self.captions = 1.0, shift, captions
        self.score: Score = score

    def ask(self, model: Any, batch: Batch, context: Any) -> Ask:
        return nothing_to_learn(model)

    def predict(self, model: Any, batch: Batch, encoded: Any) -> LoopPrediction:
        words = [WORDS["abc".index(name)] for name in batch.region_ids]
        true = batch.mask2 if self.score == "cross_frame" else batch.mask1
        assert true is not None
        return LoopPrediction(
            list(range(len(words))),
            phrases=words,
            captions=words if self.captions else None,
            truncated=[name == "a" for name in batch.region_ids] if self.captions else None,
            mask_logits=true.roll(self.shift, dims=2) - 0.5,
            score=self.score,
        )


class NoOtherFrame(OwnWords):
    """Predicts a mask of the other frame, whatever the batch."""

    def predict(self, model: Any, batch: Batch, encoded: Any) -> LoopPrediction:
        return LoopPrediction([0], ["a"], mask_logits=torch.zeros(1, 8, 8), score="cross_frame")


def _scores(masks: np.ndarray, shift: int) -> dict[str, float]:
    """The scores of masks moved by `shift`, from their pixels alone."""
    moved = np.roll(masks, shift, axis=2)
    both, either = np.minimum(masks, moved).sum((1, 2)), np.maximum(masks, moved).sum((1, 2))
    ious = both / either
    return {"miou": ious.mean(), "ciou": both.sum() / either.sum(), "precision_70": (ious >= 0.7).mean()}


def _paired(batch: Batch) -> Batch:
    """The same with another frame, which shows the first upside down; a's mask is smaller there."""
    mask2 = batch.mask1.flip(1)
    mask2[0, :, 30:] = 0
    return replace(batch, image2=batch.image1.flip(2), mask2=mask2)


def _unlabelled(batch: Batch) -> Batch:
    return replace(batch, caption=[None] * 3, phrase=[None] * 3, references=[()] * 3, phrases=[()] * 3)


def _shown(batch: Batch, region: int) -> np.ndarray:
    """image1 of a region as uint8 (S, S, 3), by ImageNet's statistics."""
    pixels = batch.image1[batch.images_of([region])[0]].permute(1, 2, 0).numpy()
    shades = np.clip(pixels * np.array([0.229, 0.224, 0.225]) + np.array([0.485, 0.456, 0.406]), 0, 1)
    return (shades * 255).round().astype(np.uint8)


def test_each_kind_of_mask_has_scores_of_its_own(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    """cross_frame against the other frame's masks; every set by its name."""
    batch = _paired(tiny_batch)
    assert batch.mask2 is not None
    loops: dict[str, Loop] = {"prompts": PromptToMask(), "own": OwnWords(shift=4), "other": OwnWords("cross_frame", 9)}
    validation = Validation(loops, None, meteor=False)
    validation.reset(["main", "sav"])
    validation.update(tiny_model.eval(), batch, 1)
    values = validation.compute()
    for prefix, masks, shift in (("cycle", batch.mask1, 4), ("cross_frame", batch.mask2, 9)):
        for name, expected in _scores(masks.numpy(), shift).items():
            assert values[f"{prefix}_{name}_sav"] == pytest.approx(expected)
    assert values["cycle_miou_sav"] != pytest.approx(values["cross_frame_miou_sav"])
    assert {"prompt_miou_sav"} <= values.keys() and not {"miou_sav", "cycle_miou", "cycle_words"} & values.keys()
    rows = validation.predictions
    assert [row.score for row in rows if row.region_id == "a"] == ["prompts", "cycle", "cross_frame"]
    assert all((row.phrase is None) == (row.score == "prompts") for row in rows)
    ious = [row.iou for row in rows if row.score == "cross_frame"]
    assert np.mean([iou for iou in ious if iou is not None]) == pytest.approx(values["cross_frame_miou_sav"])
    # Both loops said the same three captions: six captions of two texts.
    assert values["cycle_distinct_sav"] == pytest.approx(2 / 6)
    assert values["cycle_words_sav"] == pytest.approx(np.mean([2, 2, 4]))
    with pytest.raises(AssertionError, match="no other frame"):
        Validation({"other": NoOtherFrame()}, None, meteor=False).update(tiny_model, tiny_batch, 0)


@pytest.mark.parametrize("order", [("captions", "masks", "own"), ("own", "captions", "masks")])
def test_captions_are_scored_once_and_pictures_show_the_first_mask(
    tiny_model: MaskCaptionModel, tiny_batch: Batch, order: tuple[str, ...]
) -> None:
    every: dict[str, Loop] = {"captions": MaskToCaption(), "masks": CaptionToMask(), "own": OwnWords(captions=True)}
    validation = Validation({name: every[name] for name in order}, None, meteor=False)
    validation.update(tiny_model.eval(), tiny_batch, 0)
    rows = validation.predictions
    assert [p.region_id for p in rows if p.predicted_caption is not None] == ["a", "b", "c"]
    assert len(validation.captions["main"]) == 2  # of the two regions that have a true one
    own_first = order[0] == "own"
    said = [p.predicted_caption for p in rows if p.predicted_caption is not None]
    assert (said == list(WORDS)) == own_first
    by_region = {picture[3].region_id: picture for picture in validation.pictures}
    assert [by_region[r][3].score for r in "abc"] == (["cycle"] * 3 if own_first else ["phrases"] * 2 + ["cycle"])
    assert validation.compute()["cycle_words"] == pytest.approx(8 / 3)


@pytest.mark.parametrize("captions", [False, True])
@pytest.mark.parametrize("score", ["cycle", "cross_frame"])
def test_without_labels_pictures_show_the_own_caption_and_its_mask(
    tiny_model: MaskCaptionModel, tiny_batch: Batch, score: Score, captions: bool
) -> None:
    batch = _unlabelled(_paired(tiny_batch))
    alone = OwnWords(score, captions=captions)
    for loops in ({"own": alone}, {"captions": MaskToCaption(), "boxes": PromptToMask(), "own": alone}):
        validation = Validation(loops, None, meteor=False)
        validation.update(tiny_model.eval(), batch, 0)
        true = batch.mask2 if score == "cross_frame" else batch.mask1
        assert true is not None and len(validation.pictures) == 3
        for r, (image, truth, predicted, row) in enumerate(validation.pictures):
            assert (row.predicted_caption, row.phrase, row.score) == (WORDS[r], WORDS[r], score)
            assert predicted is not None and np.array_equal(predicted, np.roll(truth, 4, axis=1))
            assert np.array_equal(truth, true[r].numpy() > 0.5)
            upside_down = _shown(batch, r)[::-1]
            assert np.array_equal(image, upside_down if score == "cross_frame" else upside_down[::-1])
        rows = validation.predictions
        assert len(rows) == 3 * len([name for name in loops if name != "captions"])
        assert [p.predicted_caption for p in rows].count(None) == len(rows) - 3 * captions
        values = validation.compute()
        assert values.get("caption_truncated") == (pytest.approx(1 / 3) if captions else None)
        assert "caption_exact" not in values and values[f"{score}_miou"] > 0


def test_sets_that_are_not_described_have_no_own_captions(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    batch = _unlabelled(tiny_batch)
    loops: dict[str, Loop] = {"captions": MaskToCaption(), "boxes": PromptToMask(), "own": OwnWords()}
    validation = Validation(loops, ["main"], meteor=False)
    validation.reset(["main", "content"])
    for index in (0, 1):
        validation.update(tiny_model.eval(), batch, index)
    values = validation.compute()
    assert {"cycle_miou", "cycle_words", "prompt_miou", "prompt_miou_content"} <= values.keys()
    assert not [name for name in values if name.startswith("cycle_") and name.endswith("_content")]
    assert {p.score for p in validation.predictions if p.set_name == "content"} == {"prompts"}


def test_counts_of_captions_need_no_such_captions() -> None:
    plain = Prediction("a/b/c", "0", "main", "a", phrase="two words", score="phrases")
    assert caption_counts([plain]) == {}
    silent = replace(plain, score="cycle", phrase="", set_name="sa1b", truncated=False)
    assert caption_counts([plain, silent]) == {
        "caption_truncated_sa1b": 0.0,
        "cycle_distinct_sa1b": 1.0,
        "cycle_words_sa1b": 0.0,
    }


def _share(images: Sequence[int], padding: Sequence[bool]) -> Batch:
    """These images of a set of three, one region each: a, b, c, with the other frame."""
    mask = torch.zeros(3, 16, 16)
    for r in range(3):
        mask[r, r : 6 + 2 * r, 3 : 8 + r] = 1
    n = len(images)
    return Batch(
        image1=torch.zeros(n, 3, 16, 16),
        mask1=mask[list(images)],
        region_image=torch.arange(n),
        caption=[None] * n,
        phrase=[None] * n,
        question=[None] * n,
        references=[()] * n,
        phrases=[()] * n,
        region_ids=["abc"[image] for image in images],
        keys=[f"set/val/{image}" for image in images],
        sources=["set"] * n,
        sizes=[(16, 16)] * n,
        image2=torch.zeros(n, 3, 16, 16),
        mask2=mask[list(images)].flip(1),
        padding=tuple(padding),
    )


def _validated(model: MaskCaptionModel, batch: Batch) -> tuple[dict[str, float], list[Prediction]]:
    loops = {"own": OwnWords(shift=2, captions=True), "other": OwnWords("cross_frame", 1)}
    validation = Validation(loops, None, meteor=False)
    validation.update(model, batch, 0)
    return validation.compute(), validation.predictions


def _rank(rank: int, folder: str, model: MaskCaptionModel) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    share = _share([0, 2], []) if rank == 0 else _share([1, 0], [False, True])
    torch.save(_validated(model, share), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_log_what_one_does(tiny_model: MaskCaptionModel, tmp_path: Path) -> None:
    """The share of distinct captions over ranks is not the mean of the ranks' shares."""
    whole, rows = _validated(tiny_model, _share([0, 1, 2], []))
    mp.spawn(_rank, args=(str(tmp_path), tiny_model), nprocs=2)  # type: ignore[attr-defined]
    for rank in (0, 1):
        values, gathered = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert values == pytest.approx(whole) and gathered == rows
    assert whole["cycle_distinct"] == pytest.approx(2 / 6) and whole["cycle_words"] == pytest.approx(8 / 3)
    masks = _share([0, 1, 2], []).mask1.numpy()
    assert whole["cycle_miou"] == pytest.approx(_scores(masks, 2)["miou"])
    assert whole["cross_frame_ciou"] == pytest.approx(_scores(masks, 1)["ciou"])
