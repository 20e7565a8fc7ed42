"""RefCOCO, RefCOCO+ and RefCOCOg: `refs(<split_by>).p` and `instances.json` beside COCO's train2014 images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.sources.files import ImageFolders, field, first_existing, integer, list_of, read_json, require
from maskcap.data.sources.lenient import ListedSource, joined
from maskcap.data.sources.pickles import read_plain_pickle
from maskcap.errors import DataError

logger = logging.getLogger(__name__)

_IMAGE_FOLDERS = ("coco/train2014", "train2014", "images/mscoco/images/train2014", "images/train2014", "images")


class RefCOCOSource(ListedSource):
    """One record an image: its objects, each with all the sentences that refer to it (Yu et al. 2016, Mao et al. 2016).

    root: the folder of all data sets or the data set's own; `root/<dataset>/refs(<split_by>).p`, else
        `root/refs(<split_by>).p`.
    dataset: refcoco, refcoco+ or refcocog. split_by: unc, umd or google. split: train, val, testA, testB or test, as
        published.
    images: folder of the COCO images, or several; None searches the usual places beside the annotations.

    Keys are `"<dataset>/<split>/<image id>"`, region ids the ref ids. A record with a ref without its annotation, an
    empty sentence, a missing image or other bad entries is bad (see `LenientSource`): asking for it raises DataError,
    and so does a ref without an image id, which has a record of its own, `".../ref <ref id>"`.

    Raises DataError for missing annotation files, a split that the file does not have, images of which none is found,
    and when every record is bad.
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
        slots = _slots(refs, refs_path, ImageFolders(images), f"{dataset}/{split}")
        super().__init__(slots, refs_path)
        logger.info("%s %s (%s): %d images, %d refs", dataset, split, split_by, len(self), len(refs))

    @property
    def has_captions(self) -> bool:
        """Always: every ref has sentences."""
        return True

    @property
    def has_phrases(self) -> bool:
        """Always: the sentences are there to single their object out."""
        return True


def _refs_of_split(refs: Any, split: str, path: Path) -> list[dict[str, Any]]:
    list_of(dict, refs, "the pickle", path)
    chosen = [ref for ref in refs if ref.get("split") == split]
    if not chosen:
        splits = sorted({str(ref.get("split")) for ref in refs})
        raise DataError(
            f"{path}: no refs of split {split!r}; set split to one of {', '.join(splits) or '(none there)'}."
        )
    return chosen


def _slots(
    refs: list[dict[str, Any]], refs_path: Path, folders: ImageFolders, prefix: str
) -> list[tuple[str, Record | DataError]]:
    """(key, record or what is wrong with it) of each image, in the order of their first refs."""
    by_image: dict[int, list[dict[str, Any]]] = {}
    slots: list[tuple[str, Record | DataError]] = []
    for ref in refs:
        where = f"{refs_path}, ref {ref.get('ref_id')}"
        try:
            by_image.setdefault(integer(ref.get("image_id"), "image_id", where), []).append(ref)
        except DataError as error:
            slots.append((f"{prefix}/ref {ref.get('ref_id')}", error))
    instances = _read_instances(refs_path.parent / "instances.json", refs, by_image)
    paths = folders.find_all(_file_names(instances.images), instances.path)
    files = _Files(refs_path, instances, folders, paths)
    of_images = [(f"{prefix}/{image_id}", image_id, image_refs) for image_id, image_refs in by_image.items()]
    return [(key, _slot(key, image_id, image_refs, files)) for key, image_id, image_refs in of_images] + slots


@dataclass(frozen=True)
class _Instances:
    """The wanted images and annotations of an instances.json, by id."""

    path: Path
    images: Mapping[int, dict[str, Any]]
    annotations: Mapping[int, dict[str, Any]]


@dataclass(frozen=True)
class _Files:
    refs: Path
    instances: _Instances
    folders: ImageFolders
    paths: Mapping[str, Path]


def _read_instances(path: Path, refs: list[dict[str, Any]], image_ids: Any) -> _Instances:
    """The rest of the file is let go."""
    content = read_json(path)
    wanted = {ref["ann_id"] for ref in refs if isinstance(ref.get("ann_id"), int)}
    listed = {part: list_of(dict, field(content, part, path), f"{part!r}", path) for part in ("images", "annotations")}
    images = {image["id"]: image for image in listed["images"] if _id(image) in image_ids}
    annotations = {a["id"]: a for a in listed["annotations"] if _id(a) in wanted}
    return _Instances(path, images, annotations)


def _id(entry: dict[str, Any]) -> int | None:
    """An id that is no integer is nobody's; it may not even be hashable."""
    return entry["id"] if isinstance(entry.get("id"), int) else None


def _file_names(images: Mapping[int, dict[str, Any]]) -> list[str]:
    return [image["file_name"] for image in images.values() if isinstance(image.get("file_name"), str)]


def _slot(key: str, image_id: int, refs: list[dict[str, Any]], files: _Files) -> Record | DataError:
    """The record of one image, or one error with everything that is wrong with it."""
    problems: list[DataError] = []
    regions: list[Region] = []
    image: ImageRef | None = None
    try:
        image = _image(key, image_id, files)
    except DataError as error:
        problems.append(error)
    for ref in refs:
        try:
            regions.append(_region(ref, _annotation(ref, key, files.instances), key, files.refs))
        except DataError as error:
            problems.append(error)
    if problems or image is None:
        return joined(problems)
    return Record(key, image, tuple(regions))


def _image(key: str, image_id: int, files: _Files) -> ImageRef:
    where = f"{files.instances.path}, image {image_id}"
    entry = files.instances.images.get(image_id)
    if entry is None:
        raise DataError(
            f"{key}: the image of its refs is missing: {files.instances.path} has no image {image_id}. "
            "Is it of the same data set?"
        )
    name = entry.get("file_name")
    require(isinstance(name, str), where, "the image has no 'file_name'")
    height, width = (integer(entry.get(side), side, where) for side in ("height", "width"))
    if name not in files.paths:
        raise files.folders.missing(str(name), f"{key} ({files.instances.path})")
    return ImageRef(files.paths[str(name)], height, width)


def _annotation(ref: dict[str, Any], key: str, instances: _Instances) -> dict[str, Any]:
    where = f"{key}, ref {ref.get('ref_id')}"
    number = ref.get("ann_id")
    annotation = instances.annotations.get(number, {}) if isinstance(number, int) else {}
    if "segmentation" not in annotation:
        raise DataError(
            f"{where}: its annotation {number} is missing from {instances.path} or lacks 'segmentation'. "
            "Is it of the same data set?"
        )
    of = annotation.get("image_id", ref["image_id"])
    require(of == ref["image_id"], where, f"its annotation {number} is of another image, {of} ({instances.path})")
    return annotation


def _region(ref: dict[str, Any], annotation: dict[str, Any], key: str, path: Path) -> Region:
    where = f"{key}, ref {ref.get('ref_id')}"
    sentences = list_of(dict, ref.get("sentences"), "'sentences'", where)
    require(bool(sentences), where, f"the ref has no sentences ({path}). Remove the ref, or write one", "empty caption")
    for sentence in sentences:
        text = sentence.get("sent")
        if not isinstance(text, str) or not text.strip():
            message = f"{where}: a sentence is empty ({path}). Remove it from 'sentences', or write it."
            raise DataError(message, "empty caption")
    captions = tuple(sentence["sent"] for sentence in sentences)
    return Region(mask=annotation["segmentation"], captions=captions, id=str(ref.get("ref_id")))
