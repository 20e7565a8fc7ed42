from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf

from maskcap.data.datamodule import MaskCaptionDataModule, SourceEntry
from maskcap.errors import ConfigError, DataError, ImageDecodeError

# Lightning 2.6 warns about itself with torch 2.13.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
# Resumed runs here save no checkpoints of their own.
no_callback = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")

SMALL: dict[str, Any] = {"image_size": 8, "regions_per_image": 2}


class Recorder(lightning.LightningModule):
    """Trains one number and writes down what it was given."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[str], list[str | None], float]] = []
        self.validated: list[tuple[int, list[str]]] = []
        self.fail_at = fail_at

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.fail_at:
            raise InterruptedError
        self.seen.append((self.trainer.current_epoch, batch.keys, batch.caption, float(batch.image1.sum())))
        return self.weight * batch.image1.mean()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        assert batch.image1.dtype == torch.float32
        self.validated.append((dataloader_idx, batch.keys))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **kwargs) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    kwargs = quiet | {"enable_checkpointing": False, "max_epochs": 3} | kwargs
    return lightning.Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **kwargs)


@pytest.fixture
def data(tiny_source):
    """data(**options): 7 + 4 training records in two sources, two validation sets, batches of 2."""
    a, b, val = tiny_source(7, "a"), tiny_source(4, "b"), tiny_source(3, "v")
    sets = {"train": {"a": lambda: a, "b": SourceEntry(lambda: b)}, "val": {"main": lambda: val, "again": lambda: b}}

    def make(**options) -> MaskCaptionDataModule:
        return MaskCaptionDataModule(**({**sets, **SMALL, "batch_size": 2} | options))

    return make


def test_every_form_of_entry_and_the_weights(tiny_source):
    source = tiny_source(10)
    entries: Any = OmegaConf.create(
        {"b": {"source": partial(list, source), "weight": 3}}, flags={"allow_objects": True}
    )
    module = MaskCaptionDataModule({"a": lambda: source, **entries}, samples_per_epoch=8, **SMALL)
    assert len(module.train_dataloader()) == 8
    assert module.has_captions("train") == {"a": True, "b": True} and module.has_captions("val") == {}
    assert module.has_phrases("train") == {"a": True, "b": True}
    assert module.train_sources["a"] is source
    assert [sum(batch.sources == ["tiny"] for batch in module.train_dataloader())] == [8]
    quotas = np.bincount([i for i, _ in module.train_dataloader()._batches.mixture.epoch_order(0)])
    assert quotas.tolist() == [2, 6]


def test_names_lengths_and_contents(data):
    module = data()
    assert module.val_names == ["main", "again"] and module.test_names == [] and module.test_dataloader() == []
    assert len(module.train_dataloader()) == 6
    main, again = module.val_dataloader()
    assert [key for batch in main for key in batch.keys] == ["v/train/0", "v/train/1", "v/train/2"]
    assert [key for batch in again for key in batch.keys] == [f"b/train/{i}" for i in range(4)]
    assert next(iter(main)).mask1.shape == (6, 8, 8)  # every region
    assert next(iter(module.train_dataloader())).mask1.shape == (4, 8, 8)


def test_limits_and_batch_sizes(data):
    module = data(limit_train=2, limit_val=1, val_batch_size=4, val_regions_per_image=1)
    assert {key for batch in module.train_dataloader() for key in batch.keys} == {
        "a/train/0", "a/train/1", "b/train/0", "b/train/1",
    }  # fmt: skip
    assert [batch.mask1.shape[0] for batch in module.val_dataloader()[0]] == [1]


def test_spread_gives_every_batch_its_share_of_each_source(data):
    for spread, shares in ((True, {1}), (False, {0, 1, 2})):
        loader = data(spread=spread, samples_per_epoch=40).train_dataloader()
        assert {sum(key.startswith("a/") for key in batch.keys) for batch in loader} == shares


def test_prepare_is_called_before_the_sources_are_built(data, tiny_source):
    calls = []

    def build():
        calls.append("build")
        return tiny_source(2)

    module = data(train={"a": build}, prepare=lambda: calls.append("prepare"))
    assert calls == []
    module.prepare_data()
    module.setup("fit")
    module.setup("fit")
    assert calls == ["prepare", "build"]


def test_device_hooks_normalise(data):
    module = data()
    raw = next(iter(module.val_dataloader()[0]))
    batch = module.on_after_batch_transfer(module.transfer_batch_to_device(raw, torch.device("cpu"), 0), 0)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (raw.image1.numpy().transpose(0, 2, 3, 1) / 255.0 - mean) / std
    np.testing.assert_allclose(batch.image1.numpy().transpose(0, 2, 3, 1), expected, atol=2e-6)


def test_a_fit_sees_every_set_and_each_epoch_in_its_own_order(data, tmp_path):
    model = Recorder()
    trainer(tmp_path).fit(model, datamodule=data())
    plain = data().train_dataloader()
    expected = []
    for epoch in range(3):
        plain.set_epoch(epoch)
        expected += [(epoch, batch.keys, batch.caption) for batch in plain]
    assert [seen[:3] for seen in model.seen] == expected
    assert {index for index, _ in model.validated} == {0, 1}


@no_callback
@pytest.mark.parametrize(("workers", "limit"), [(0, 1.0), (0, 3), (2, 1.0)])
@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_steps": 9, "max_epochs": -1}], ids=["epochs", "steps"])
def test_lightning_resumes_exactly(data, tmp_path, workers, limit, length):
    """From every checkpoint of a run, inside and at the end of epochs, the rest of the run is the undisturbed one."""
    save = ModelCheckpoint(tmp_path / "all", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole = Recorder()
    options = {"enable_checkpointing": True, "limit_train_batches": limit, "limit_val_batches": 1, **length}
    trainer(tmp_path, callbacks=[save], **options).fit(whole, datamodule=data())
    for step in (1, 3, 5, 6, 7) if not workers else (2,):
        rest = Recorder()
        trainer(tmp_path, **(options | {"enable_checkpointing": False})).fit(
            rest, datamodule=data(num_workers=workers), ckpt_path=tmp_path / "all" / f"step={step}.ckpt"
        )
        assert [seen[1:] for seen in rest.seen] == [seen[1:] for seen in whole.seen[step:]], step


@no_callback
@pytest.mark.parametrize("on_train_epoch_end", [True, False], ids=["train_epoch_end", "validation_end"])
@pytest.mark.parametrize("limit", [1.0, 3])
def test_lightning_resumes_from_ends_of_epochs(data, tmp_path, on_train_epoch_end, limit):
    save = ModelCheckpoint(
        tmp_path / "all", save_top_k=-1, filename="{epoch}", save_on_train_epoch_end=on_train_epoch_end
    )
    whole = Recorder()
    options = {"enable_checkpointing": True, "limit_train_batches": limit}
    trainer(tmp_path, callbacks=[save], **options).fit(whole, datamodule=data())
    per_epoch = len(whole.seen) // 3
    for epoch in (0, 1):
        rest = Recorder()
        path = tmp_path / "all" / f"epoch={epoch}.ckpt"
        trainer(tmp_path, limit_train_batches=limit).fit(rest, datamodule=data(), ckpt_path=path)
        assert [seen[1:] for seen in rest.seen] == [seen[1:] for seen in whole.seen[per_epoch * (epoch + 1) :]]


def test_overfit_batches_repeats_the_same(data, tmp_path):
    model = Recorder()
    with pytest.warns(UserWarning, match="turning off the train dataloader shuffling"):
        trainer(tmp_path, overfit_batches=2).fit(model, datamodule=data())
    assert [seen[1:] for seen in model.seen] == [seen[1:] for seen in model.seen[:2]] * 3


def test_a_bad_image_ends_a_fit_with_its_name(data, tiny_source, tmp_path):
    source = tiny_source(3)
    source.records[1].image1.path.unlink()
    with pytest.raises(DataError, match="tiny/train/1"):
        trainer(tmp_path).fit(Recorder(), datamodule=data(train={"a": lambda: source}, num_workers=1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, "data.batch_size=0"),
        ({"limit_val": -1}, ConfigError, "data.limit_val=-1"),
        ({"num_workers": -1}, ConfigError, "num_workers=-1"),
        ({"regions_per_image": 0}, ConfigError, "regions_per_image=0"),
        ({"caption_choice": "last"}, ConfigError, "caption_choice='last'"),
        ({"train": {"a": [1, 2]}}, ConfigError, "data.train.a: the source is a list, not a callable"),
        ({"val": {"m": {"weigth": 1}}}, ConfigError, "data.val.m: expected"),
    ],
)
def test_wrong_options(data, options, error, message):
    with pytest.raises(error, match=message):
        data(**options)


def test_wrong_data(data):
    with pytest.raises(DataError, match="data.train.empty: the source has no records"):
        data(train={"empty": list}).train_dataloader()
    with pytest.raises(DataError, match="data.val.empty"):
        data(val={"empty": list}).setup("fit")
    with pytest.raises(ConfigError, match="an epoch of 1 samples has no full batch of 2"):
        data(samples_per_epoch=1, drop_last=True).train_dataloader()
    with pytest.raises(ConfigError, match="names no source"):
        data(train={}).train_dataloader()


def test_a_mixture_of_pairs_and_single_images_is_an_error(data, tiny_source):
    single, pairs = tiny_source(2, "s"), tiny_source(2, "p")
    pairs.records = [replace(r, image2=r.image1, regions2=r.regions1) for r in pairs.records]
    module = data(train={"s": lambda: single, "p": lambda: pairs}, batch_size=4)
    with pytest.raises(DataError, match="is a pair of frames and"):
        list(module.train_dataloader())


class PartlyBad(list):
    """A source that found some of its records to be bad while it was built."""

    def __init__(self, records, bad):
        super().__init__(records)
        self.bad = bad

    def __getitem__(self, index):
        if index in self.bad:
            raise self.bad[index]
        return super().__getitem__(index)


def test_records_known_to_be_bad_end_a_run_at_its_start(data, tiny_source):
    bad = {2: ImageDecodeError("s/2: no such image file. Fetch it.", "missing file")}
    source = PartlyBad(tiny_source(20), bad)
    with pytest.raises(ImageDecodeError, match="data.train.s: 1 of 20 records are bad, the first: s/2") as caught:
        data(train={"s": lambda: source}).setup("fit")
    assert caught.value.reason == "missing file" and "on_bad_sample=skip" in str(caught.value)
    with pytest.raises(ImageDecodeError, match="max_bad_fraction allows fewer"):
        data(train={"s": lambda: source}, on_bad_sample="skip", max_bad_fraction=0.01).setup("fit")
    assert data(train={"s": lambda: source}).sources("train")["s"] is source  # for those who look into bad ones


def test_skipped_samples_are_listed_in_the_runs_folder(data, tiny_source, tmp_path):
    source = tiny_source(20)
    source.records[3].image1.path.write_bytes(b"")
    model = Recorder()
    module = data(train={"s": lambda: source}, on_bad_sample="skip", max_bad_fraction=0.1, num_workers=1)
    trainer(tmp_path, max_epochs=2).fit(model, datamodule=module)
    lines = (tmp_path / "bad_samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["tiny/train/3"]
    assert len(model.seen) == 20 and all("tiny/train/3" not in keys for _, keys, _, _ in model.seen)
    assert not (tmp_path / "other.jsonl").exists()


def test_repeats_and_temperature_make_the_mixture(data):
    repeated = data(train={"a": {"source": lambda: [1] * 3, "repeats": 4}, "b": lambda: [1] * 5})
    mixture = repeated.train_dataloader()._batches.mixture
    assert mixture.samples_per_epoch == 17 and mixture.quotas() == [12, 5]
    flat = data(train={"a": lambda: [1] * 4, "b": lambda: [1] * 64}, temperature=2.0, samples_per_epoch=20)
    assert flat.train_dataloader()._batches.mixture.quotas() == [4, 16]
