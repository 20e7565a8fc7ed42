"""The checks on batches of other families: conversations, a grounded answer, a text without an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch

from maskcap.config import CheckedConfig
from maskcap.data.batch import Batch
from maskcap.data.record import Phrase, Turn
from maskcap.doctor.findings import NotReachedError, Patient
from maskcap.doctor.learning import check_learning
from maskcap.doctor.surroundings import _first_with_words
from maskcap.doctor.wiring import check_packing, check_regions, check_seg
from maskcap.loops.base import Loop
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.dialogue import Dialogue
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.module import MaskCaptionModule
from maskcap.training.optimizers import AdamW

GROUNDED = (Turn("Describe it.", "a red circle", (Phrase(0, 12, 1),)),)
ABOUT = (Turn("Is <region1> a cross?", "yes"), Turn("Why?", "it has two bars"))


def patient(model: MaskCaptionModel, batch: Batch, folder: Path, loops: Mapping[str, Loop], steps: int = 2) -> Patient:
    module = MaskCaptionModule(model, dict(loops), AdamW(lr=3e-3))
    trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    return Patient(CheckedConfig({}), folder / "run", steps=steps, trainer=trainer, module=module, batch=batch)


@pytest.fixture
def talks(tiny_batch: Batch) -> Batch:
    """No caption and no phrase: a grounded answer, then a question about a region."""
    nothing: list[str | None] = [None] * 3
    empty: list[tuple[str, ...]] = [()] * 3
    return replace(
        tiny_batch, caption=nothing, phrase=nothing, references=empty, phrases=empty, turns=[GROUNDED, ABOUT]
    )


def test_conversations_alone_are_enough(tiny_model: MaskCaptionModel, talks: Batch, tmp_path: Path):
    examined = patient(tiny_model, talks, tmp_path, {"dialogue": Dialogue()}, steps=25)
    for check in (check_seg, check_regions, check_packing):
        finding = check(examined)
        assert finding.ok, finding
    assert check_learning(examined).ok
    examined.need("module").model.seg_mlp.requires_grad_(False)
    assert check_seg(examined).said == "the mask loss does not reach seg_mlp"


def test_answers_without_masks_and_regions_leave_those_checks_unmade(
    tiny_model: MaskCaptionModel, talks: Batch, tmp_path: Path
):
    plain = replace(talks, turns=[(Turn("Why?", "so"),), ()])
    examined = patient(tiny_model, plain, tmp_path, {"dialogue": Dialogue(), "captions": MaskToCaption()})
    with pytest.raises(NotReachedError, match="no phrase"):
        check_seg(examined)
    with pytest.raises(NotReachedError, match="no caption, and no question about a region"):
        check_regions(examined)


def test_a_loop_without_anything_in_the_batch_is_named(tiny_model: MaskCaptionModel, tiny_batch: Batch, tmp_path: Path):
    loops = {"dialogue": Dialogue(), "caption_to_mask": CaptionToMask()}
    batch = replace(tiny_batch, turns=[(), ()])
    examined = patient(tiny_model, batch, tmp_path, loops, steps=25)
    finding = check_learning(examined)
    assert finding.ok and "nothing in this batch for dialogue" in finding.said, finding
    assert finding.facts["idle"] == ["dialogue"] and "dialogue" not in finding.facts["losses"]


def test_the_batch_with_most_of_what_the_data_has_is_taken(tiny_batch: Batch, talks: Batch):
    nothing = replace(talks, turns=[(), ()], mask1=torch.zeros(3, 64, 64))
    wanted = {"captions", "phrases", "turns"}
    both = replace(tiny_batch, turns=[GROUNDED, ()])
    assert _first_with_words([nothing, tiny_batch, both, talks], wanted) == (both, 3)
    assert _first_with_words([nothing, talks, tiny_batch, talks], wanted) == (tiny_batch, 4)
    assert _first_with_words([nothing, talks], {"turns"}) == (talks, 2)
    assert _first_with_words([nothing, talks], set()) == (nothing, 1)
