"""The doctor's batch of a mixture: every kind of sample that its sources have, by tests/families.py's world."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from maskcap.data.datamodule import MaskCaptionDataModule
from maskcap.data.sources import GCGGroundingsSource, LlavaSource, OspreySource, RefCOCOSource, ReferringVideoSource
from maskcap.doctor.every_kind import batch_of_every_kind
from maskcap.errors import DataError
from tests.families import write_families


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MaskCaptionDataModule:
    """Five sources of different kinds."""
    root = write_families(tmp_path_factory.mktemp("families"), count=2)
    coco = root / "coco"
    sources = {
        "refcoco": partial(RefCOCOSource, root),
        "gcg": partial(GCGGroundingsSource, root / "gcg" / "OpenPsgGCG_train.json", coco),
        "osprey": partial(OspreySource, root / "osprey" / "osprey_conversation.json", coco, conversations=True),
        "llava": partial(LlavaSource, root / "llava" / "llava_v1_5_mix665k.json", root / "llava" / "images"),
        "revos": partial(ReferringVideoSource, root),
    }
    return MaskCaptionDataModule(sources, image_size=48, regions_per_image=2, frames_per_sample=3)


def test_every_kind_is_in_the_batch(data: MaskCaptionDataModule) -> None:
    """Whatever number of images is asked for; what each source has is said."""
    batch, kinds = batch_of_every_kind(data, 1)
    assert any(batch.caption) and any(batch.phrase) and any(batch.blank) and batch.frames is not None
    assert any(turn.phrases for turns in batch.turns for turn in turns)
    assert any("<region1>" in turn.question for turns in batch.turns for turn in turns)
    assert kinds["llava"] == ["other conversations", "texts without an image"]
    assert kinds["gcg"] == ["grounded answers"] and "videos" in kinds["revos"]
    assert len(batch.keys) == 4  # the video has captions and phrases too
    more, _ = batch_of_every_kind(data, 5)
    assert len(more.keys) == 5


def test_a_record_that_cannot_be_read_is_named(data: MaskCaptionDataModule, tmp_path: Path) -> None:
    """By the error of its source."""
    root = write_families(tmp_path, count=2)
    source = partial(RefCOCOSource, root)
    next((root / "coco" / "train2014").glob("*01.jpg")).write_bytes(b"no picture")
    with pytest.raises(DataError, match="refcoco/train/1"):
        batch_of_every_kind(MaskCaptionDataModule({"a": source}, image_size=48), 2)
