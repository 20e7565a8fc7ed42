"""The files as a stranger reads them: json, pickle, pycocotools and Pillow, none of our own readers."""

from __future__ import annotations

import json
import pickle
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from maskcap.data.scenes.scene import SPLITS, make_scene

# pycocotools 2.0.11 under numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

REF_KEYS = {"sent_ids", "file_name", "ann_id", "ref_id", "image_id", "split", "sentences", "category_id"}


def decode(segmentation: Any, side: int) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, side, side))
    return coco_mask.decode(segmentation)


def load(folder: Path) -> tuple[list[dict], dict]:
    with (folder / "refs(unc).p").open("rb") as file:
        return pickle.load(file), json.loads((folder / "instances.json").read_text())


@pytest.mark.parametrize("dataset", ["refcoco", "refcoco+"])
def test_instances_hold_the_very_masks_that_were_drawn(scenes_root: Path, dataset: str):
    _, instances = load(scenes_root / dataset)
    annotations = defaultdict(list)
    for annotation in instances["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    assert len({a["id"] for a in instances["annotations"]}) == len(instances["annotations"])
    forms = set()
    for image in instances["images"]:
        with Image.open(scenes_root / "coco" / "train2014" / image["file_name"]) as file:
            pixels = np.asarray(file)
        assert pixels.shape == (image["height"], image["width"], 3) == (96, 96, 3)
        split = max((s for s in SPLITS if s.first_id <= image["id"]), key=lambda s: s.first_id)
        scene = make_scene(3, split, image["id"] - split.first_id, 96)
        assert np.abs(pixels.astype(float) - scene.image).mean() < 3
        for annotation, mask in zip(annotations[image["id"]], scene.masks, strict=True):
            forms.add(type(annotation["segmentation"]))
            np.testing.assert_array_equal(decode(annotation["segmentation"], 96), mask)
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert forms == {dict, list}


def test_refcoco_says_content_alone_only_where_it_is_enough(scenes_root: Path):
    refs, instances = load(scenes_root / "refcoco")
    assert Counter(image_split(refs).values()) == {"train": 12, "val": 9, "testA": 9, "testB": 9}
    assert [ref["ref_id"] for ref in refs] == list(range(len(refs)))
    assert len(refs) == len(instances["annotations"])
    assert all(set(ref) == REF_KEYS for ref in refs)
    for sentences in by_image(refs).values():
        contents = Counter(full.split(" at the ")[0].split(" in the ")[0] for full, *_ in sentences)
        for full, *rest in sentences:
            content = full.split(" at the ")[0].split(" in the ")[0]
            assert content != full and len(content.split()) == 3
            assert rest == ([content] * 3 if contents[content] == 1 else [])


def test_refcoco_plus_never_names_a_place_and_is_never_ambiguous(scenes_root: Path):
    refs, instances = load(scenes_root / "refcoco+")
    assert Counter(image_split(refs).values()) == {"train": 6, "val": 9, "testA": 9, "testB": 9}
    for sentences in by_image(refs).values():
        assert all(len(texts) == 1 and len(texts[0].split()) == 3 for texts in sentences)
        assert len({texts[0] for texts in sentences}) == len(sentences)
    refs_of = Counter(ref["image_id"] for ref in refs if ref["split"] == "testB")
    assert set(refs_of.values()) == {2}
    assert len(instances["annotations"]) >= len(refs)


def test_sentences_and_ids(scenes_root: Path):
    refs, instances = load(scenes_root / "refcoco")
    categories = {category["id"]: category["name"] for category in instances["categories"]}
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    ids = [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]]
    assert ids == list(range(len(ids)))
    for ref in refs:
        assert annotations[ref["ann_id"]]["image_id"] == ref["image_id"]
        assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
        for sentence in ref["sentences"]:
            assert sentence["sent"] == sentence["raw"] == " ".join(sentence["tokens"])
            assert sentence["tokens"][2] == categories[ref["category_id"]]
    assert (scenes_root / "refcoco" / "refs(unc).p").read_bytes()[:2] == b"\x80\x02"  # pickle protocol 2


@pytest.mark.parametrize(("suffix", "split", "count"), [("", "train", 12), ("_val", "val", 9)])
def test_osprey_says_what_refcoco_says(scenes_root: Path, suffix: str, split: str, count: int):
    refs, _ = load(scenes_root / "refcoco")
    truth = {image: [full for full, *_ in sentences] for image, sentences in by_image(refs, split).items()}
    detail, short = (
        json.loads((scenes_root / "osprey" / f"osprey_{kind}{suffix}.json").read_text())
        for kind in ("detail_description", "short_form")
    )
    assert len(detail) == len(short) == count
    for entry, questions in zip(detail, short, strict=True):
        phrases = truth[int(entry["id"])]
        assert entry["description"] == [f"<region{k}>: {phrase}" for k, phrase in enumerate(phrases, start=1)]
        assert entry["annotation"] == questions["annotation"] and len(entry["annotation"]) == len(phrases)
        assert (scenes_root / "coco" / "train2014" / entry["file_name"]).is_file()
        turns = questions["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (3 * len(phrases))
        for k, phrase in enumerate(phrases):
            asked, answers = turns[6 * k : 6 * k + 6 : 2], turns[6 * k + 1 : 6 * k + 6 : 2]
            assert all(f"<region{k + 1}>" in turn["value"] for turn in asked)
            assert all(turn["value"].endswith("Answer the question using a single word or phrase.") for turn in asked)
            _, colour, shape = phrase.split()[:3]
            assert [turn["value"] for turn in answers] == [colour, shape, shape]


def test_sa1b(scenes_root: Path):
    paths = sorted((scenes_root / "sa1b").glob("*.json"))
    assert len(paths) == 2
    for path in paths:
        content = json.loads(path.read_text())
        assert content["image"]["file_name"] == f"{path.stem}.jpg" == f"sa_{content['image']['image_id']}.jpg"
        assert path.with_suffix(".jpg").is_file()
        for annotation in content["annotations"]:
            assert decode(annotation["segmentation"], 96).sum() == annotation["area"]


def test_sav_masks_are_of_every_fourth_frame_and_one_object_is_away(scenes_root: Path):
    for path in sorted((scenes_root / "sav").glob("*.mp4")):
        content = json.loads(path.with_name(f"{path.stem}_manual.json").read_text())
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert container.streams.video[0].average_rate == 24
        assert len(frames) == content["video_frame_count"] == 61
        masks = np.array([[decode(rle, 96) for rle in frame] for frame in content["masklet"]])  # T, N, H, W
        assert masks.shape[:2] == (16, len(content["masklet_id"]))
        assert masks.sum(axis=1).max() == 1
        assert any(not column.any(axis=(1, 2)).all() for column in masks.swapaxes(0, 1))
        for index, frame_masks in enumerate(masks):
            inside = frame_masks.any(axis=0)
            saturation = np.ptp(frames[4 * index].astype(int), axis=2)
            assert saturation[inside].mean() > 80 > 30 > saturation[~inside].mean()


def by_image(refs: list[dict], split: str | None = None) -> dict[int, list[list[str]]]:
    sentences = defaultdict(list)
    for ref in refs:
        if split in (None, ref["split"]):
            sentences[ref["image_id"]].append([sentence["sent"] for sentence in ref["sentences"]])
    return sentences


def image_split(refs: list[dict]) -> dict[int, str]:
    return {ref["image_id"]: ref["split"] for ref in refs}
