from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import Precision
from PIL import Image

from maskcap.data.batch import IMAGENET_MEAN, IMAGENET_STD
from maskcap.data.datamodule import MaskCaptionDataModule
from maskcap.data.record import Record
from maskcap.data.rewritten import still_pairs, without_captions
from maskcap.data.sample import Sample, make_sample
from maskcap.data.scenes import make_scenes
from maskcap.data.sources import RefCOCOSource, SA1BSource, SAVSource
from maskcap.errors import ConfigError, DataError
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.metrics.masks import mask_iou
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.callbacks.pseudo_captions import PseudoCaptions
from maskcap.training.module import MaskCaptionModule

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

SIZE = 64
LINE = re.compile(r"pseudo caption of (.*) region (.*): (.*) \(IoU (.*)\)")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "demo", train=60, val=1, size=SIZE, workers=0)


def data(root: Path, *names: str) -> MaskCaptionDataModule:
    words: Any = functools.partial(RefCOCOSource, root)
    sources: dict[str, Any] = {
        "words": words,
        "bare": functools.partial(without_captions, words),
        "sa1b": functools.partial(SA1BSource, root / "sa1b"),
        "sav": functools.partial(SAVSource, root / "sav", pairs=True),
        "stills": functools.partial(still_pairs, words),
    }
    train = {name: sources[name] for name in names}
    options: dict[str, Any] = {"image_size": SIZE, "regions_per_image": 2, "batch_size": 1, "samples_per_epoch": 2}
    return MaskCaptionDataModule(train, {"main": words}, limit_val=1, **options)


def module_of(model: MaskCaptionModel) -> MaskCaptionModule:
    return MaskCaptionModule(model, {"prompts": PromptToMask()}, meteor=False)


def described(callback: PseudoCaptions, model: MaskCaptionModel, datamodule: Any) -> list[Any]:
    trainer = SimpleNamespace(datamodule=datamodule, precision_plugin=Precision())
    module = SimpleNamespace(model=model.eval(), device=torch.device("cpu"))
    return callback.describe(trainer, module)  # type: ignore[arg-type]


def drawn(source: Sequence[Record], index: int, regions: int = 1) -> Sample:
    return make_sample(
        source[index],
        np.random.default_rng(index),
        image_size=SIZE,
        regions_per_image=regions,
        caption_choice="first",
        phrase_choice="first",
    )


def normal(image: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((image / 255 - mean) / std)[None]


@torch.no_grad()
def by_hand(model: MaskCaptionModel, sample: Sample) -> tuple[list[str], torch.Tensor]:
    """The model's captions of a sample's regions and the masks by them, one image and one region at a time."""
    says, masks = [], []
    found_in = sample.image1 if sample.image2 is None else sample.image2
    for mask in sample.mask1:
        (text,) = model.describe(normal(sample.image1), mask[None].float())
        logits = model.segment(normal(found_in), [text])
        says.append(text)
        masks.append(F.interpolate(logits[:, None], (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0] > 0)
    return says, torch.stack(masks)


def shaken(model: MaskCaptionModel) -> MaskCaptionModel:
    """With weights of some size, so that captions and masks differ between regions."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def test_a_fit_writes_a_picture_a_validation_and_logs_the_last_captions(
    root: Path, tmp_path: Path, make_trainer: Any, tiny_model: MaskCaptionModel, caplog: pytest.LogCaptureFixture
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    module, alone = module_of(shaken(tiny_model)), module_of(deepcopy(tiny_model))
    logger = TensorBoardLogger(tmp_path, name="tb", version="")
    datamodule = data(root, "words", "bare", "sa1b")
    with caplog.at_level(logging.INFO, logger="maskcap"):
        make_trainer(PseudoCaptions(count=5), logger=logger).fit(module, datamodule=datamodule)
    files = sorted((tmp_path / "samples").iterdir())
    assert [path.name for path in files] == ["pseudo_000002.png", "pseudo_000004.png"]  # none of the sanity check

    sources = datamodule.train_sources
    length = len(sources["bare"])
    samples = [drawn(sources["bare"], index) for index in (0, length // 3, 2 * length // 3)]
    samples += [drawn(sources["sa1b"], index) for index in (0, 1)]
    model = module.model.eval()
    expected = []
    for sample in samples:
        (said,), mask = by_hand(model, sample)
        iou = mask_iou(mask, sample.mask1).item()
        expected.append((sample.key, sample.region_ids[0], repr(said), f"{iou:.2f}"))
    assert [LINE.fullmatch(each).groups() for each in caplog.messages if LINE.fullmatch(each)] == expected  # pyright: ignore
    assert len({said for *_, said, _ in expected}) > 1 and any(float(iou) > 0 for *_, iou in expected)

    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    images = events.Images("val/pseudo_captions")
    assert [image.step for image in images] == [2, 4]
    (tmp_path / "logged.png").write_bytes(images[1].encoded_image_string)
    with Image.open(tmp_path / "logged.png") as logged, Image.open(files[1]) as written:
        assert np.array_equal(np.asarray(logged), np.asarray(written))

    make_trainer().fit(alone, datamodule=data(root, "words", "bare", "sa1b"))
    for name, weight in alone.state_dict().items():  # looking on changes nothing
        assert torch.equal(weight, module.state_dict()[name]), name


def test_of_a_pair_the_mask_is_of_the_other_frame(root: Path, tiny_model: MaskCaptionModel):
    model, datamodule = shaken(tiny_model).eval(), data(root, "stills", "sav")
    pictures = described(PseudoCaptions(count=6, regions=2, batch_size=4), model, datamodule)
    source = datamodule.train_sources["sav"]
    samples = [drawn(source, place * len(source) // 6, regions=2) for place in range(6)]
    assert len(pictures) == sum(len(sample.region_ids) for sample in samples) > 6
    rows = iter(pictures)
    moved = 0
    for sample in samples:
        says, masks = by_hand(model, sample)
        assert sample.image2 is not None and sample.mask2 is not None
        moved += not torch.equal(sample.image1, sample.image2)
        for said, mask, true, region in zip(says, masks, sample.mask2, sample.region_ids, strict=True):
            image, shown, predicted, row = next(rows)
            assert np.array_equal(image, sample.image2.permute(1, 2, 0).numpy())
            assert np.array_equal(shown, true.bool().numpy()) and np.array_equal(predicted, mask.numpy())
            assert (row.key, row.region_id, row.phrase) == (sample.key, region, said)
            assert row.iou == pytest.approx(mask_iou(mask[None], true[None]).item())
    assert moved


def test_stills_and_pairs_go_into_batches_of_their_own_and_a_small_source_gives_all(
    root: Path, tiny_model: MaskCaptionModel
):
    datamodule = data(root, "sa1b", "sav")
    assert len(datamodule.train_sources["sa1b"]) == 3
    keys = [row.key for *_, row in described(PseudoCaptions(count=9, batch_size=3), tiny_model, datamodule)]
    assert [key.split("/")[0] for key in keys] == ["sa1b"] * 3 + ["sav"] * 4 and len(set(keys)) == 7
    assert not described(PseudoCaptions(count=0), tiny_model, datamodule)


def test_samples_are_made_once_at_the_data_modules_size_unless_another_is_given(
    root: Path, tiny_model: MaskCaptionModel
):
    callback, datamodule = PseudoCaptions(count=2), data(root, "bare")
    (image, *_), _ = described(callback, tiny_model, datamodule)
    assert image.shape == (SIZE, SIZE, 3)
    kept = callback._samples
    described(callback, tiny_model, datamodule)
    assert kept is not None and callback._samples is kept
    (image, mask, predicted, _), _ = described(PseudoCaptions(count=2, image_size=32), tiny_model, datamodule)
    assert image.shape == (32, 32, 3) and mask.shape == predicted.shape == (32, 32)


def test_a_bad_record_is_left_out_with_a_warning(
    root: Path, tiny_model: MaskCaptionModel, caplog: pytest.LogCaptureFixture
):
    class Broken(SA1BSource):
        def __getitem__(self, index: Any) -> Any:
            if index == 1:
                raise DataError("record 1 is torn")
            return super().__getitem__(index)

    datamodule = MaskCaptionDataModule({"main": lambda: Broken(root / "sa1b")}, image_size=SIZE)
    assert len(described(PseudoCaptions(count=3), tiny_model, datamodule)) == 2
    assert "record 1 is torn" in caplog.text


def test_nothing_happens_without_such_a_source_or_outside_of_a_fit(
    root: Path, tmp_path: Path, make_trainer: Any, tiny_model: MaskCaptionModel, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, logger="maskcap"):
        make_trainer(PseudoCaptions(), max_epochs=1).fit(module_of(tiny_model), datamodule=data(root, "words"))
        make_trainer(PseudoCaptions()).validate(module_of(tiny_model), datamodule=data(root, "bare"), verbose=False)
    assert not (tmp_path / "samples").exists() and "pseudo" not in caplog.text
    assert not described(PseudoCaptions(), tiny_model, None)


@pytest.mark.parametrize("option", ["count", "regions", "batch_size"])
def test_numbers_out_of_range_are_refused(option: str):
    values: dict[str, Any] = {option: -1}
    with pytest.raises(ConfigError, match=rf"callbacks\.pseudo_captions\.{option}=-1"):
        PseudoCaptions(**values)
