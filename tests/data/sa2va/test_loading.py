"""`format: sa2va` of the data module: the same loaders, which yield plain dicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning
import pytest
import torch

from maskcap.cli.build import needs_own_format
from maskcap.config import CheckedConfig
from maskcap.data.datamodule import MaskCaptionDataModule
from maskcap.data.sa2va import Sa2VAOptions
from maskcap.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture
def data(tiny_source, options) -> Callable[..., MaskCaptionDataModule]:
    """data(**arguments): 7 records to train on, 3 to validate, in batches of 2; 2 regions each."""
    train, val = tiny_source(7, "a"), tiny_source(3, "v")

    def make(**arguments: Any) -> MaskCaptionDataModule:
        """The data module with these arguments besides."""
        given = {"batch_size": 2, "regions_per_image": 2, "format": "sa2va", "sa2va": options()} | arguments
        return MaskCaptionDataModule({"a": lambda: train}, {"main": lambda: val}, **given)

    return make


def test_loaders_yield_dicts(data):
    module = data()
    batches = list(module.train_dataloader())
    assert [len(batch["keys"]) for batch in batches] == [2, 2, 2, 1]
    assert sorted(key for batch in batches for key in batch["keys"]) == [f"a/train/{i}" for i in range(7)]
    assert all(type(batch) is dict and len(batch["masks"]) == len(batch["keys"]) for batch in batches)
    assert [len(masks) for masks in batches[0]["masks"]] == [2, 2]
    (val,) = module.val_dataloader()
    assert [len(masks) for batch in val for masks in batch["masks"]] == [3, 3, 3]  # every region


def test_workers_and_resume_give_the_same_batches(data):
    whole = list(data().train_dataloader())
    loader = data(num_workers=1).train_dataloader()
    loader.load_state_dict({**data().train_dataloader().state_dict(), "samples": 4})
    try:
        rest = list(loader)
    finally:
        loader.close()
    assert [batch["keys"] for batch in rest] == [batch["keys"] for batch in whole[2:]]
    for found, expected in zip(rest, whole[2:], strict=True):
        assert found["input_ids"].equal(expected["input_ids"])
        assert all(a.equal(b) for a, b in zip(found["masks"], expected["masks"], strict=True))


def test_bad_samples_are_replaced_and_listed(tiny_source, options, tmp_path):
    source = tiny_source(6, "a")
    source.records[2] = replace(source.records[2], regions1=())
    listed = tmp_path / "bad.jsonl"
    module = MaskCaptionDataModule(
        {"a": lambda: source},
        {"main": lambda: source},
        format="sa2va",
        sa2va=options(),
        batch_size=3,
        on_bad_sample="skip",
        max_bad_fraction=0.5,
        bad_samples_file=listed,
    )
    assert [len(batch["keys"]) for batch in module.train_dataloader()] == [3, 3]
    assert json.loads(listed.read_text())["key"] == "a/train/2"
    (val,) = module.val_dataloader()
    assert [batch.get("padding") for batch in val] == [[False, False, True], None]
    strict = MaskCaptionDataModule({"a": lambda: source}, format="sa2va", sa2va=options())
    with pytest.raises(DataError, match="a/train/2"):
        list(strict.train_dataloader())


def test_lightning_takes_them_as_they_are(data, tmp_path):
    class Other(lightning.LightningModule):
        """Training code of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: list[dict[str, Any]] = []

        def training_step(self, batch, batch_idx):
            self.seen.append(batch)
            return self.weight * batch["pixel_values"][0].mean()

        def validation_step(self, batch, batch_idx):
            """Not reached."""

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=2,
        enable_checkpointing=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        **quiet,
    )
    model = Other()
    trainer.fit(model, datamodule=data())
    assert [type(batch) for batch in model.seen] == [dict, dict]
    assert model.seen[0]["g_pixel_values"][0].dtype == torch.uint8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sa2va": None}, "sa2va.tokenizer is not set"),
        ({"sa2va": Sa2VAOptions("x", regions_per_image=3)}, "data.sa2va.regions_per_image=3 and .*=2: give it once"),
        ({"format": "sa3va"}, "data.format='sa3va': choose"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: dict[str, Any], message: str, data):
    with pytest.raises(ConfigError, match=message):
        data(**arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 100},
        {"min_tiles": 0},
        {"min_tiles": 5, "max_tiles": 4},
        {"max_length": 0},
        {"pool": "any"},
        {"template": "vicuna"},
        {"questions": ("Segment it",)},
        {"answers": ("[SEG] [SEG]",)},
        {"describe_questions": ()},
        {"regions_per_image": 0},
        {"frames_per_sample": 0},
    ],
)
def test_options_that_are_impossible(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sa2VAOptions("x", **wrong)


def test_tokenizers_that_cannot_be_used_are_named(data, tmp_path, options):
    with pytest.raises(ConfigError, match="no tokenizer can be read there"):
        next(iter(data(sa2va=Sa2VAOptions(tmp_path / "nowhere")).train_dataloader()))
    with pytest.raises(ConfigError, match=r"has no token \[SEG\]"):
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        vocabulary = {"<img>": 0, "<IMG_CONTEXT>": 1, "</img>": 2, "?": 3}
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "?"))).save_pretrained(tmp_path)
        next(iter(data(sa2va=Sa2VAOptions(tmp_path, special_tokens=("<vp>",))).train_dataloader()))


def test_the_commands_that_train_here_refuse_it():
    with pytest.raises(ConfigError, match="data.format=sa2va makes the batches of other training code"):
        needs_own_format(CheckedConfig({"data": {"format": "sa2va"}}))
    needs_own_format(CheckedConfig({"data": {"format": "maskcap"}}))
    needs_own_format(CheckedConfig({"data": {}}))
