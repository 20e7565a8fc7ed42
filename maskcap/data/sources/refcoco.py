"""RefCOCO, RefCOCO+ and RefCOCOg: `refs(<split_by>).p` and `instances.json` beside COCO's train2014 images."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.sources.files import ImageFolders, field, first_existing, integer, list_of, read_json, require, some
from maskcap.data.sources.pickles import read_plain_pickle
from maskcap.errors import DataError

logger = logging.getLogger(__name__)

_IMAGE_FOLDERS = ("coco/train2014", "train2014", "images/mscoco/images/train2014", "images/train2014", "images")


class RefCOCOSource(Sequence[Record]):
    """One record an image: its objects, each with all the sentences that refer to it (Yu et al. 2016, Mao et al. 2016).

    root: the folder of all data sets or the data set's own; `root/<dataset>/refs(<split_by>).p`, else
        `root/refs(<split_by>).p`.
    dataset: refcoco, refcoco+ or refcocog. split_by: unc, umd or google. split: train, val, testA, testB or test, as
        published.
    images: folder of the COCO images, or several; None searches the usual places beside the annotations.

    Keys are `"<dataset>/<split>/<image id>"`, region ids the ref ids. Raises DataError: missing files or images, a
    split that the file does not have, a ref without its annotation, an empty sentence.
    """

    def __init__(
        self,
        root: str | Path,
        dataset: str = "refcoco",
        split_by: str = "unc",
        split: str = "train",
        *,
        images: str | Path | Sequence[str | Path] | None = None,
    ):
        self.name = dataset
        self.skipped: dict[str, int] = {}
        refs_name = f"refs({split_by}).p"
        what = f"{refs_name} of {dataset}"
        refs_path = first_existing([Path(root) / dataset / refs_name, Path(root) / refs_name], what)
        refs = _refs_of_split(read_plain_pickle(refs_path), split, refs_path)
        if images is None:
            bases = (Path(root), refs_path.parent, refs_path.parent.parent)
            places = [base / sub for base in bases for sub in _IMAGE_FOLDERS]
            images = first_existing(places, f"the COCO images of {dataset}")
        self._records = _records(refs, refs_path, ImageFolders(images), f"{dataset}/{split}")
        logger.info("%s %s (%s): %d images, %d refs", dataset, split, split_by, len(self._records), len(refs))

    @property
    def has_captions(self) -> bool:
        """Always: every ref has sentences."""
        return True

    @property
    def has_phrases(self) -> bool:
        return True

    def image_of(self, index: int) -> Hashable:
        """What tells the images of records apart; cheap."""
        return self._records[index].image1.path

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return self._records[index]


def _refs_of_split(refs: Any, split: str, path: Path) -> list[dict[str, Any]]:
    list_of(dict, refs, "the pickle", path)
    chosen = [ref for ref in refs if ref.get("split") == split]
    if not chosen:
        splits = sorted({str(ref.get("split")) for ref in refs})
        raise DataError(
            f"{path}: no refs of split {split!r}; set split to one of {', '.join(splits) or '(none there)'}."
        )
    return chosen


def _records(refs: list[dict[str, Any]], refs_path: Path, folders: ImageFolders, prefix: str) -> list[Record]:
    by_image: dict[int, list[dict[str, Any]]] = {}
    for ref in refs:
        where = f"{refs_path}, ref {ref.get('ref_id')}"
        by_image.setdefault(integer(ref.get("image_id"), "image_id", where), []).append(ref)
    instances_path = refs_path.parent / "instances.json"
    images, annotations = _read_instances(instances_path, refs, by_image)
    paths = folders.find_all((image["file_name"] for image in images.values()), instances_path)
    records = []
    for image_id, image_refs in by_image.items():
        image, key = images[image_id], f"{prefix}/{image_id}"
        where = f"{instances_path}, image {image_id}"
        height, width = (integer(image.get(side), side, where) for side in ("height", "width"))
        regions = tuple(_region(ref, annotations[ref["ann_id"]], key, refs_path) for ref in image_refs)
        records.append(Record(key, ImageRef(paths[image["file_name"]], height, width), regions))
    return records


def _read_instances(path: Path, refs: list[dict[str, Any]], image_ids: Any) -> tuple[dict[int, Any], dict[int, Any]]:
    """The wanted images and annotations by id; the rest of the file is let go."""
    instances = read_json(path)
    wanted = {ref.get("ann_id") for ref in refs}
    listed = {
        part: list_of(dict, field(instances, part, path), f"{part!r}", path) for part in ("images", "annotations")
    }
    images = {image["id"]: image for image in listed["images"] if image.get("id") in image_ids}
    annotations = {a["id"]: a for a in listed["annotations"] if a.get("id") in wanted}
    lost_images = [image_id for image_id in image_ids if image_id not in images]
    require(not lost_images, path, f"images of refs are missing: ids {some(lost_images)}. Is it of the same data set?")
    unnamed = [i for i, image in images.items() if not isinstance(image.get("file_name"), str)]
    require(not unnamed, path, f"images without 'file_name': {some(unnamed)}")
    lost = [ref.get("ref_id") for ref in refs if "segmentation" not in annotations.get(ref.get("ann_id"), {})]
    require(
        not lost, path, f"the annotations of refs {some(lost)} are missing or lack 'segmentation'. Is it of their set?"
    )
    strays = [r.get("ref_id") for r in refs if annotations[r["ann_id"]].get("image_id", r["image_id"]) != r["image_id"]]
    require(not strays, path, f"refs whose annotation is of another image: {some(strays)}")
    return images, annotations


def _region(ref: dict[str, Any], annotation: dict[str, Any], key: str, path: Path) -> Region:
    where = f"{key}, ref {ref.get('ref_id')}"
    sentences = list_of(dict, ref.get("sentences"), "'sentences'", where)
    require(bool(sentences), where, f"the ref has no sentences ({path}). Remove the ref, or write one")
    for sentence in sentences:
        text = sentence.get("sent")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: a sentence is empty ({path}). Remove it from 'sentences', or write it.")
    captions = tuple(sentence["sent"] for sentence in sentences)
    return Region(mask=annotation["segmentation"], captions=captions, id=str(ref.get("ref_id")))
