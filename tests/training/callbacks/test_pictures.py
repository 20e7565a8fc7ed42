from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from maskcap.training.callbacks.pictures import Pictures, send_image

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def test_a_picture_after_every_validation_but_not_the_sanity_check(
    tmp_path: Path, make_trainer: Any, module: Any, loader: Any
):
    make_trainer(Pictures(count=2)).fit(module, loader, loader)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step_000004.png", "step_000008.png"]
    with (
        Image.open(tmp_path / "samples" / "step_000004.png") as two,
        Image.open(tmp_path / "samples" / "step_000008.png") as again,
    ):
        assert np.array_equal(np.asarray(two), np.asarray(again))
        size = two.size
    make_trainer(Pictures(count=1)).validate(module, loader, verbose=False)
    with Image.open(tmp_path / "samples" / "step_000000.png") as one:
        assert (2 * one.size[0], one.size[1]) == size


def test_nothing_is_written_without_pictures(tmp_path: Path, make_trainer: Any, module: Any, loader: Any):
    module.validation_step = lambda batch, batch_idx: None
    make_trainer(Pictures()).fit(module, loader, loader)
    assert not (tmp_path / "samples").exists()


def test_tensorboard_holds_the_pixels_of_the_file(tmp_path: Path, make_trainer: Any, module: Any, loader: Any):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="tb", version="")
    make_trainer(Pictures(count=1), logger=logger).fit(module, loader, loader)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    images = events.Images("val/samples")
    assert [image.step for image in images] == [4, 8]
    (tmp_path / "logged.png").write_bytes(images[0].encoded_image_string)
    with Image.open(tmp_path / "logged.png") as logged, Image.open(tmp_path / "samples/step_000004.png") as written:
        assert np.array_equal(np.asarray(logged), np.asarray(written))


def test_wandb_gets_the_image_and_other_loggers_are_passed_over():
    class WandbLogger:
        calls: list[Any] = []

        def log_image(self, key: str, images: list[Any], step: int) -> None:
            self.calls.append((key, images, step))

    class OwnWandb(WandbLogger):
        pass

    pixels = np.zeros((2, 3, 3), np.uint8)
    send_image(OwnWandb(), "val/samples", pixels, 7)  # pyright: ignore[reportArgumentType]
    assert OwnWandb.calls == [("val/samples", [pixels], 7)]
    send_image(object(), "val/samples", pixels, 7)  # pyright: ignore[reportArgumentType]


def test_a_negative_count_is_refused_and_zero_writes_nothing(
    tmp_path: Path, make_trainer: Any, module: Any, loader: Any
):
    with pytest.raises(ValueError, match="count=-1"):
        Pictures(count=-1)
    make_trainer(Pictures(count=0)).fit(module, loader, loader)
    assert not (tmp_path / "samples").exists()
