"""The four thin modules on the smallest data sets in their real layouts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from maskcap.data.datamodule import OspreyDataModule, RefCOCODataModule, SA1BDataModule, SAVDataModule
from maskcap.errors import ConfigError, DataError

H, W = 24, 32
SQUARE = [[4.0, 4.0, 14.0, 4.0, 14.0, 14.0, 4.0, 14.0]]


def rle(left: int = 5) -> dict[str, object]:
    mask_HW = np.zeros((H, W), np.uint8, order="F")
    mask_HW[6:12, left : left + 6] = 1
    counts: Any = coco.encode(mask_HW)["counts"]
    return {"size": [H, W], "counts": counts.decode()}


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)).save(path)


def test_refcoco_uses_its_own_splits(tmp_path):
    images, annotations, refs = [], [], []
    for i, split in enumerate(["train", "train", "val", "testA"]):
        name = f"COCO_train2014_{i:012d}.jpg"
        picture(tmp_path / "coco" / "train2014" / name, i)
        images.append({"id": i, "file_name": name, "height": H, "width": W})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "segmentation": SQUARE, "bbox": [4, 4, 10, 10]})
        sentences = [{"sent_id": i, "sent": f"box {i}", "raw": f"box {i}", "tokens": ["box", str(i)]}]
        ref = {"ref_id": i, "ann_id": i, "image_id": i, "split": split, "sentences": sentences, "category_id": 1}
        refs.append(ref | {"file_name": name})
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    coco_json = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (tmp_path / "refcoco" / "instances.json").write_text(json.dumps(coco_json))

    module = RefCOCODataModule(tmp_path, test_splits=["testA"], image_size=16, batch_size=2)
    module.setup()
    (batch,) = module.train_dataloader()
    assert sorted(map(str, batch.caption)) == ["box 0", "box 1"] and batch.mask1.shape == (2, 16, 16)
    assert next(iter(module.val_dataloader()[0])).caption == ["box 2"]
    assert module.test_names == ["testA"] and next(iter(module.test_dataloader()[0])).caption == ["box 3"]
    with pytest.raises(DataError, match="testB"):
        RefCOCODataModule(tmp_path, val_split="testB").setup("fit")


def test_sa1b_holds_out_its_last_images(tmp_path):
    for i in range(5):
        picture(tmp_path / f"sa_{i}.jpg", i)
        image = {"image_id": i, "width": W, "height": H, "file_name": f"sa_{i}.jpg"}
        annotation = {"id": 10 * i, "segmentation": rle(), "bbox": [5, 6, 6, 6], "area": 36}
        annotation |= {"predicted_iou": 0.9, "stability_score": 0.9, "point_coords": [[8, 8]], "crop_box": [0, 0, W, H]}
        (tmp_path / f"sa_{i}.json").write_text(json.dumps({"image": image, "annotations": [annotation]}))
    module = SA1BDataModule(tmp_path, val_fraction=0.4, image_size=16)
    assert [len(module.sources(part)["main"]) for part in ("train", "val")] == [3, 2]
    assert module.has_captions("train") == {"main": False}
    assert next(iter(module.train_dataloader())).caption == [None]
    assert not {r.key for r in module.sources("train")["main"]} & {r.key for r in module.sources("val")["main"]}

    everything = SA1BDataModule(tmp_path, val_fraction=0, image_size=16)
    assert len(everything.train_sources["main"]) == 5 and everything.val_names == []
    with pytest.raises(DataError):
        SA1BDataModule(tmp_path, source_options={"min_area": 37}).setup("fit")
    with pytest.raises(ConfigError, match="val_fraction=2"):
        SA1BDataModule(tmp_path, val_fraction=2).setup("fit")


def test_sav_pairs_keep_videos_apart(tmp_path):
    for video in range(2):
        path = tmp_path / f"sav_{video}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=24)
            stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
            for frame in range(13):
                pixels = np.full((H, W, 3), 10 * frame, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        masklet = [[rle(frame)] for frame in range(4)]
        facts = {"video_id": f"sav_{video}", "video_height": float(H), "video_width": float(W)}
        facts |= {"video_frame_count": 13.0, "masklet_id": [0], "masklet": masklet, "masklet_num": 1}
        (tmp_path / f"sav_{video}_manual.json").write_text(json.dumps(facts))
    module = SAVDataModule(tmp_path, pairs=True, source_options={"distance": 1}, val_fraction=0.1, image_size=16)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch.image2 is not None and batch.image2.shape == (1, 3, 16, 16)
    assert batch.mask2 is not None and batch.mask2.shape == (1, 16, 16)
    train, val = module.train_sources["main"], module.sources("val")["main"]
    assert {record.image1.path.stem for record in train} == {"sav_0"}
    assert {record.image1.path.stem for record in val} == {"sav_1"}


def test_osprey(tmp_path):
    entries = []
    for i in range(4):
        picture(tmp_path / "images" / f"{i:012d}.jpg", i)
        entries.append(
            {
                "id": i,
                "file_name": f"{i:012d}.jpg",
                "height": H,
                "width": W,
                "annotation": [{"segmentation": SQUARE, "bbox": [4, 4, 10, 10]}],
                "description": [f"<region1>: a square, number {i}"],
            }
        )
    path = tmp_path / "osprey_detail_description.json"
    path.write_text(json.dumps(entries))
    module = OspreyDataModule(path, tmp_path / "images", val_fraction=0.25, image_size=16)
    captions = [str(batch.caption[0]) for batch in module.train_dataloader()]
    assert sorted(captions) == [f"a square, number {i}" for i in range(3)]
    assert next(iter(module.val_dataloader()[0])).references == [("a square, number 3",)]
