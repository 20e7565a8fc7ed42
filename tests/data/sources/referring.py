"""Referring video sets as they are published: objects that move, one mask for each frame."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from maskcap.data.record import Region
from maskcap.data.rle import decode_mask
from maskcap.data.sources import ReferringVideoSource

HEIGHT, WIDTH = 24, 32
FRAMES = ["00000", "00005", "00010", "00015"]


def draw(seed: int) -> list[np.ndarray | None]:
    """An object's masks over the frames: it is absent from the third."""
    rng = np.random.default_rng(seed)
    masks: list[np.ndarray | None] = []
    for i in range(len(FRAMES)):
        top, left = rng.integers(0, 12, 2)
        mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask_HW[top : top + 9, left : left + 11] = 1
        masks.append(None if i == 2 else mask_HW)
    return masks


def column_of(masks: list[np.ndarray | None], as_bytes: bool = False) -> list[dict | None]:
    """The masks as an annotation of mask_dict, with counts as text or as a pickle of pycocotools' has them."""
    column: list[dict | None] = []
    for mask in masks:
        rle: Any = None if mask is None else coco.encode(np.asfortranarray(mask))
        column.append(rle and {"size": rle["size"], "counts": rle["counts"] if as_bytes else rle["counts"].decode()})
    return column


def write_frames(folder: Path, videos: dict[str, dict]) -> None:
    """A JPEG for each frame, redder from one to the next."""
    for name, video in videos.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(video["frames"]):
            Image.new("RGB", (WIDTH, HEIGHT), (60 * number, 90, 30)).save(folder / name / f"{frame}.jpg")


def expected_of(*objects: list[np.ndarray | None]) -> np.ndarray:
    """Union over objects in each frame, (F, H, W)."""
    union = np.zeros((len(FRAMES), HEIGHT, WIDTH), np.uint8)
    for masks in objects:
        for i, mask in enumerate(masks):
            if mask is not None:
                union[i] |= mask
    return union


def decoded(region: Region) -> np.ndarray:
    """The region's masks in all frames, (F, H, W)."""
    return np.stack([decode_mask(mask, HEIGHT, WIDTH) for mask in region.frame_masks])


def mevis_of(tmp_path: Path, expressions: dict, frames: Any = None, **options) -> ReferringVideoSource:
    """Videos "good" and "dance" with annotations 11 to 16, of which 11 and 12 are right, in MeVIS's layout."""
    folder = tmp_path / "mevis" / "train"
    good = {"frames": FRAMES, "expressions": {"0": {"exp": "the good one", "anno_id": [11], "obj_id": [0]}}}
    videos = {
        "good": good,
        "dance": {"frames": FRAMES[::-1] if frames is None else frames, "expressions": expressions},
    }
    write_frames(folder / "JPEGImages", {"good": good, "dance": good})
    (folder / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    masks = {"11": column_of(draw(1)), "12": column_of(draw(2)), "13": column_of(draw(1))[:2], "14": 7}
    masks["15"] = [{**masks["11"][0], "size": [HEIGHT, WIDTH + 1]}, None, None, None]
    masks["16"] = [None, {"size": [HEIGHT, WIDTH], "counts": "0"}, "what", None]
    (folder / "mask_dict.json").write_text(json.dumps(masks))
    return ReferringVideoSource(tmp_path, "mevis", **options)


def ref_youtube_vos_of(tmp_path: Path, masks: object, **options) -> ReferringVideoSource:
    """Two videos, whose expressions are numbered 0 to 4, with this content of mask_dict.pkl."""
    root = tmp_path / "rvos"
    one = {"frames": FRAMES, "expressions": {"1": {"exp": "b", "obj_id": "2"}, "0": {"exp": "a", "obj_id": "1"}}}
    two = {"frames": FRAMES, "expressions": {"0": {"exp": "c"}, "10": {"exp": "e"}, "2": {"exp": "d"}}}
    write_frames(root / "train" / "JPEGImages", {"zebra": one, "ape": two})
    (root / "meta_expressions" / "train").mkdir(parents=True, exist_ok=True)
    videos = {"videos": {"zebra": one, "ape": two}}
    (root / "meta_expressions" / "train" / "meta_expressions.json").write_text(json.dumps(videos))
    (root / "mask_dict.pkl").write_bytes(pickle.dumps(masks, protocol=2))
    return ReferringVideoSource(tmp_path, "ref_youtube_vos", **options)
