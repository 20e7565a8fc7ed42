"""Each check is content with a whole model, and names what is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from maskcap.config import CheckedConfig
from maskcap.data.batch import Batch
from maskcap.doctor.findings import NotReachedError, Patient
from maskcap.doctor.learning import check_learning
from maskcap.doctor.surroundings import check_checkpoint
from maskcap.doctor.weights import check_weights, constant_share, in_folder
from maskcap.doctor.wiring import check_packing, check_regions, check_seg, check_tokens
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.cycle import Cycle
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import pretrained_internvl, pretrained_sam2, tiny_internvl, tiny_sam2
from maskcap.training.checkpoints.files import CheckpointFiles
from maskcap.training.module import MaskCaptionModule
from maskcap.training.optimizers import AdamW


@pytest.fixture
def patient(tiny_model: MaskCaptionModel, tiny_batch: Batch, tmp_path: Path) -> Patient:
    loops = {"mask_to_caption": MaskToCaption(), "caption_to_mask": CaptionToMask()}
    module = MaskCaptionModule(tiny_model, loops, AdamW(lr=3e-3))
    trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    return Patient(CheckedConfig({}), tmp_path / "run", steps=25, trainer=trainer, module=module, batch=tiny_batch)


@pytest.mark.parametrize("check", [check_tokens, check_seg, check_regions, check_packing, check_checkpoint])
def test_a_whole_model_passes(patient: Patient, check: Callable[..., Any]):
    before = {name: value.clone() for name, value in patient.need("module").state_dict().items()}
    finding = check(patient)
    assert finding.ok, finding
    module = patient.need("module")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training and all(weight.grad is None for weight in module.parameters())


def test_one_batch_is_learned_by_heart(patient: Patient):
    finding = check_learning(patient)
    assert finding.ok, finding
    assert min(finding.facts["factors"].values()) > 2 and len(finding.facts["losses"]["caption_to_mask"]) == 25


def test_a_frozen_seg_row_is_named(patient: Patient):
    patient.need("module").model.vlm.embedding_weight.requires_grad_(False)
    tokens, seg = check_tokens(patient), check_seg(patient)
    assert tokens.ok is False and "rows are frozen" in tokens.said and "model.freeze_patterns" in tokens.fix
    assert seg.ok is False and seg.said == "the mask loss does not reach [SEG]'s embedding"


@pytest.mark.parametrize(("part", "name"), [("seg_mlp", "seg_mlp"), ("segmenter", "SAM2's mask decoder")])
def test_a_part_that_the_mask_loss_does_not_reach_is_named(patient: Patient, part: str, name: str):
    getattr(patient.need("module").model, part).requires_grad_(False)
    finding = check_seg(patient)
    assert finding.ok is False and finding.said == f"the mask loss does not reach {name}"


def test_a_tokenizer_without_the_tokens_is_named(patient: Patient):
    class Apart:
        """Reads [SEG] letter by letter."""

        def __init__(self, own: Any) -> None:
            self.own = own

        def __call__(self, texts: list[str], **options: Any) -> Any:
            return self.own([text.replace("[SEG]", "[S") for text in texts], **options)

    vlm = patient.need("module").model.vlm
    vlm.tokenizer = Apart(vlm.tokenizer)
    finding = check_tokens(patient)
    assert finding.ok is False and finding.said == "cut to pieces: [SEG]"


def test_captions_that_do_not_see_the_mask_are_named(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    model = patient.need("module").model
    own = model.region_tokens

    def blind(tokens: Any, mask1: torch.Tensor, region_image: torch.Tensor) -> Any:
        return own(tokens, torch.ones_like(mask1), region_image)

    monkeypatch.setattr(model, "region_tokens", blind)
    finding = check_regions(patient)
    assert finding.ok is False and "do not see the masks" in finding.fix


def test_packing_that_changes_the_loss_is_named(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    model = patient.need("module").model
    own = model.answer_losses

    def losses(*of: Any) -> Any:
        mean, each = own(*of)
        return mean * (1.01 if model.packing == "tree" else 1.0), each

    monkeypatch.setattr(model, "answer_losses", losses)
    finding = check_packing(patient)
    assert finding.ok is False and finding.facts["relative_difference"]["mask_to_caption"] == pytest.approx(0.01, 0.01)
    assert model.packing == "tree"


def test_a_folder_that_cannot_be_made_is_named(patient: Patient, tmp_path: Path):
    (tmp_path / "file").write_text("")
    patient.folder = tmp_path / "file" / "run"
    finding = check_checkpoint(patient)
    assert finding.ok is False and str(patient.folder) in finding.said and "paths.runs" in finding.fix


@pytest.mark.parametrize("weights", ["everything", "trained"])
def test_checkpoints_are_tried_as_the_run_keeps_them(patient: Patient, weights: Any):
    module, trainer = patient.need("module"), patient.need("trainer")
    module.model.segmenter.requires_grad_(False)
    trainer.strategy.checkpoint_io = CheckpointFiles(weights, on_error="raise")
    assert check_checkpoint(patient).ok
    assert not list(patient.folder.iterdir())


def test_a_checkpoint_that_comes_back_changed_is_named(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    saver = patient.need("trainer").strategy.checkpoint_io
    own = saver.load_checkpoint

    def bad(*a: Any, **k: Any) -> Any:
        state = own(*a, **k)
        state["state_dict"]["model.region_marker"] += 1
        return state

    monkeypatch.setattr(saver, "load_checkpoint", bad)
    finding = check_checkpoint(patient)
    assert finding.ok is False and "1 of them came back changed, model.region_marker first" in finding.said
    assert not (patient.folder / "checkpoints").exists()


def test_a_number_that_is_not_finite_is_named(patient: Patient):
    with torch.no_grad():
        patient.need("module").model.seg_mlp[0].weight[0, 0] = float("nan")
    finding = check_learning(patient)
    assert finding.ok is False and finding.said.startswith("step 0: loss nan") and "set/train/0" in finding.fix


def test_a_small_rate_is_raised_and_the_cycle_takes_part_once(patient: Patient):
    module = patient.need("module")
    module.optimizer_settings = AdamW(lr=1e-9, learning_rates={"seg_mlp.*": 1e-10})
    patient.steps, patient.factor, patient.lr = 3, 1.0, 3e-3
    module.loops["cycle"] = Cycle(max_new_tokens=2)
    finding = check_learning(patient)
    assert finding.facts["lr"] == 3e-3
    assert finding.facts["losses"].keys() == {"mask_to_caption", "caption_to_mask"}


def test_a_rate_that_learns_nothing_is_named(patient: Patient):
    patient.need("module").optimizer_settings, patient.lr = AdamW(lr=1e-9), 0.0
    finding = check_learning(patient)
    assert finding.ok is False and finding.fix.startswith("mask_to_caption, caption_to_mask should fall by a factor")


def test_what_a_run_does_not_use_is_passed_over(patient: Patient):
    patient.need("module").loops = {"prompt_to_mask": PromptToMask()}
    assert [check(patient).ok for check in (check_tokens, check_seg, check_regions, check_packing)] == [None] * 4
    patient.need("module").loops = {"caption_to_mask": CaptionToMask()}
    patient.batch = replace(patient.need("batch"), phrase=[None] * 3)
    with pytest.raises(NotReachedError, match="no phrase"):
        check_seg(patient)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    """Tiny weights as save_pretrained writes them, and the settings that load them."""
    vlm = tiny_internvl(image_size=32, patch_size=4, downsample_ratio=0.5, hidden_size=32, vit_layers=1, lm_layers=1)
    sam = tiny_sam2(image_size=32, hidden_size=64, width=8, mlp_dim=64)
    for name, model in (("model", vlm.model), ("segmenter", sam.model)):
        model.save_pretrained(tmp_path / name)
    vlm.tokenizer.save_pretrained(tmp_path / "model")
    return {"model": str(tmp_path / "model"), "segmenter": str(tmp_path / "segmenter")}


def built(patient: Patient, folders: dict[str, Any]) -> Patient:
    """The patient whose configuration loads these folders."""
    presets = "maskcap.models.presets."
    vlm = {"_target_": f"{presets}pretrained_internvl", "path": folders["model"], "dtype": "float32", "image_size": 32}
    sam = {"_target_": f"{presets}pretrained_sam2", "path": folders["segmenter"], "dtype": "float32"}
    model = {"_target_": "maskcap.models.mask_caption.MaskCaptionModel", "vlm": vlm, "segmenter": sam}
    loop = {"_target_": "maskcap.loops.mask_to_caption.MaskToCaption"}
    module = {"_target_": "maskcap.training.module.MaskCaptionModule", "model": model, "loops": {"caption": loop}}
    patient.config = CheckedConfig({"model": vlm, "segmenter": sam, "module": module})
    return patient


def test_a_folder_of_random_weights_is_named(patient: Patient, folders: dict[str, Any]):
    finding = check_weights(built(patient, folders))
    assert finding.ok is False and "model.vision_tower" in finding.fix and "segmenter.mask_decoder" in finding.fix
    patient.allow_random = True
    assert check_weights(patient).ok


def test_a_folder_of_trained_weights_passes_and_its_numbers_are_found(patient: Patient, folders: dict[str, Any]):
    for name, load in (("model", pretrained_internvl), ("segmenter", pretrained_sam2)):
        model = load(folders[name], dtype="float32").model
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        model.save_pretrained(folders[name])
    finding = check_weights(built(patient, folders))
    assert finding.ok, finding
    found = finding.facts["model_in_folder"]
    assert found["found"] == found["tensors"] > 20


def test_weights_that_were_made_anew_after_loading_are_not_the_folders(folders: dict[str, Any]):
    model = tiny_internvl(
        image_size=32, patch_size=4, downsample_ratio=0.5, hidden_size=32, vit_layers=1, lm_layers=1, seed=1
    ).model
    with torch.no_grad():
        for weight in model.parameters():
            weight += 3
    assert in_folder(model, Path(folders["model"]), "float32")[0] == 0
    assert in_folder(model, Path(folders["model"]).parent, "float32") == (0, 0)
    assert constant_share(model) == 1.0 and constant_share(torch.nn.Linear(3, 3)) is None
