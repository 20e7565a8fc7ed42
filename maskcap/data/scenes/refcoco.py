"""Scenes → `refs(unc).p` and `instances.json` in the layout of RefCOCO and RefCOCO+."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskcap.data.scenes.grammar import SHAPES, format_phrase
from maskcap.data.scenes.notes import SceneNote


def write_refcoco(folder: Path, splits: Mapping[str, Sequence[SceneNote]], place_words: bool) -> None:
    """Write both files into `folder` (created).

    With `place_words` (RefCOCO) a ref's sentences are the full phrase and, where no other object of the scene has
    the same content, the content phrase three times: annotators who leave the place out are in the majority, and a
    reader who meets the place in most phrases learns nothing else. Without (RefCOCO+) the content phrase alone.
    """
    folder.mkdir(parents=True)
    refs: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    sentence_id = 0
    for split, notes in splits.items():
        for note in notes:
            images.append({"id": note.image_id, "file_name": note.file_name, "height": note.size, "width": note.size})
            first = len(annotations)
            annotations += _annotations(note, first_id=first + 1)
            for k, sentences in enumerate(_sentences(note, place_words)):
                refs.append(_ref(len(refs), note, annotations[first + k], k, split, sentences, sentence_id))
                sentence_id += len(sentences)
    categories = [{"id": i, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES, start=1)]
    instances = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def _sentences(note: SceneNote, place_words: bool) -> list[list[str]]:
    """Sentences of each referred object, in order."""
    everything = [item.attributes for item in note.objects]
    contents = Counter(attributes.content for attributes in everything)
    found = []
    for attributes in everything[: note.referred]:
        content_only = [format_phrase(attributes, place=False)] if contents[attributes.content] == 1 else []
        found.append([format_phrase(attributes), *content_only * 3] if place_words else content_only)
    return found


def _annotations(note: SceneNote, first_id: int) -> list[dict[str, Any]]:
    return [
        {
            "id": first_id + k,
            "image_id": note.image_id,
            "category_id": SHAPES.index(item.attributes.shape) + 1,
            "iscrowd": 0,
            "area": float(item.area),
            "bbox": item.bbox,
            "segmentation": item.segmentation,
        }
        for k, item in enumerate(note.objects)
    ]


def _ref(
    ref_id: int, note: SceneNote, annotation: Mapping[str, Any], k: int, split: str, texts: list[str], sent_id: int
) -> dict[str, Any]:
    sentences = [
        {"tokens": text.split(), "raw": text, "sent_id": sent_id + i, "sent": text} for i, text in enumerate(texts)
    ]
    return {
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "file_name": f"{Path(note.file_name).stem}_{k}.jpg",  # the published refs carry such a suffix too
        "ann_id": annotation["id"],
        "ref_id": ref_id,
        "image_id": note.image_id,
        "split": split,
        "sentences": sentences,
        "category_id": annotation["category_id"],
    }
