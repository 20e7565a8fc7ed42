"""Validation over ranks and loops: what is scored, and which rows come out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from maskcap.data.batch import Batch, normalise
from maskcap.data.drawing import SampleOptions
from maskcap.data.loader import EvalLoader, LoaderOptions
from maskcap.data.scenes import make_scenes
from maskcap.data.sources import RefCOCOSource
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training import validation as validation_module
from maskcap.training.validation import Validation


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RefCOCOSource:
    root = make_scenes(tmp_path_factory.mktemp("scenes") / "demo", train=2, val=3, size=64, workers=0)
    return RefCOCOSource(root, split="val")


def _validated(model: MaskCaptionModel, source: RefCOCOSource, rank: int = 0, world: int = 1) -> Validation:
    loops = {"captions": MaskToCaption(), "masks": CaptionToMask(), "prompts": PromptToMask()}
    validation = Validation(loops, None, meteor=False, pictures=2)
    samples = SampleOptions(image_size=64, regions_per_image=None)
    validation.reset(["main", "again"])
    for index in range(2):
        for batch in EvalLoader(source, 0, samples, LoaderOptions(1, rank=rank, world=world)):
            validation.update(model.eval(), normalise(batch), index)
    return validation


def test_two_ranks_together_score_what_one_process_scores(
    tiny_model: MaskCaptionModel, source: RefCOCOSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _validated(tiny_model, source)
    ranks = [_validated(tiny_model, source, rank, 2) for rank in (0, 1)]
    assert [len({p.key for p in rank.predictions}) for rank in ranks] == [2, 1]  # not the record that only pads

    def all_gather_object(parts: list[Any], rows: Any) -> None:
        parts[:] = [rank._rows for rank in ranks]

    monkeypatch.setattr(validation_module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(validation_module.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(validation_module.dist, "all_gather_object", all_gather_object)
    for rank in ranks:
        assert rank.gather() == whole.predictions
    for name, metric in whole.masks.items():
        other = ranks[0].masks[name]
        other.merge(ranks[1].masks[name])
        assert other.compute() == pytest.approx(metric.compute())
    assert sum(len(rank.captions["main"]) for rank in ranks) == len(whole.captions["main"])


def test_every_mask_is_a_row_and_every_caption_one(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    loops = {"prompts": PromptToMask(), "masks": CaptionToMask(), "captions": MaskToCaption()}
    for order in (loops, dict(reversed(loops.items()))):
        validation = Validation(order, None, meteor=False)
        validation.update(tiny_model.eval(), tiny_batch, 0)
        rows = validation.predictions
        assert Counter((p.region_id, p.phrase) for p in rows if p.iou is not None) == Counter(
            {("a", None): 1, ("b", None): 1, ("c", None): 1, ("a", "large red circle"): 1}
            | {("b", "small blue cross"): 1, ("b", "cross"): 1}
        )
        assert [p.region_id for p in rows if p.predicted_caption is not None] == ["a", "b", "c"]
        assert all(p.size == (64, 64) for p in rows) and len(validation.pictures) == 3
        values = validation.compute()
        by_words = [p.iou for p in rows if p.phrase is not None and p.iou is not None]
        assert values["miou"] == pytest.approx(sum(by_words) / 3)
        assert {"prompt_miou", "caption_truncated"} <= values.keys()


def test_padding_images_are_in_no_score_and_no_picture(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    validation = Validation({"prompts": PromptToMask(), "captions": MaskToCaption()}, None, meteor=False)
    validation.update(tiny_model.eval(), replace(tiny_batch, padding=(True, False)), 0)
    assert [p.region_id for p in validation.predictions] == ["c"]
    assert [picture[3].region_id for picture in validation.pictures] == ["c"]
    assert validation.masks["prompt_", "main"].compute()["count"] == 1 and len(validation.captions["main"]) == 0


def test_share_of_cut_captions(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    end = tiny_model.vlm.tokenizer.convert_tokens_to_ids(tiny_model.vlm.conversation.end)
    answers = torch.tensor([[9, end, 0], [9, 9, 9], [9, 9, end]])
    tiny_model.vlm.model.generate = lambda **_: answers
    validation = Validation({"captions": MaskToCaption()}, None, meteor=False)
    validation.update(tiny_model.eval(), tiny_batch, 0)
    assert validation.compute()["caption_truncated"] == pytest.approx(1 / 3)
    assert [p.truncated for p in validation.predictions] == [False, True, False]
