"""What RefCOCO's and gRefCOCO's layouts share: refs of a split with sentences, `instances.json`, COCO's images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.sources.files import ImageFolders, field, first_existing, integer, list_of, read_json, require
from maskcap.data.sources.lenient import joined
from maskcap.errors import DataError

_IMAGE_FOLDERS = ("coco/train2014", "train2014", "images/mscoco/images/train2014", "images/train2014", "images")


@dataclass(frozen=True)
class Instances:
    """The wanted images and annotations of an instances.json, by id."""

    path: Path
    images: Mapping[int, dict[str, Any]]
    annotations: Mapping[int, dict[str, Any]]


# (ref, its image, the annotations, the name of the ref for messages) → its region; raises DataError
MakeRegion: TypeAlias = Callable[[dict[str, Any], ImageRef | None, Instances, str], Region]


@dataclass(frozen=True)
class _Files:
    refs: Path
    instances: Instances
    folders: ImageFolders
    paths: Mapping[str, Path]
    make_region: MakeRegion


def refs_of_split(refs: Any, split: str, path: Path, what: str) -> list[dict[str, Any]]:
    """The refs of one split. `what`: the kind of file, for messages. Raises DataError for a split without any."""
    list_of(dict, refs, what, path)
    chosen = [ref for ref in refs if ref.get("split") == split]
    if not chosen:
        splits = sorted({str(ref.get("split")) for ref in refs})
        raise DataError(
            f"{path}: no refs of split {split!r}; set split to one of {', '.join(splits) or '(none there)'}."
        )
    return chosen


def coco_images(
    images: str | Path | Sequence[str | Path] | None, root: str | Path, refs_path: Path, dataset: str
) -> ImageFolders:
    """The folders given, else the usual places of COCO's images beside the annotations. Raises DataError."""
    if images is None:
        bases = (Path(root), refs_path.parent, refs_path.parent.parent)
        places = [base / sub for base in bases for sub in _IMAGE_FOLDERS]
        images = first_existing(places, f"the COCO images of {dataset}")
    return ImageFolders(images)


def ref_slots(
    refs: Sequence[dict[str, Any]],
    refs_path: Path,
    folders: ImageFolders,
    prefix: str,
    annotation_ids: Callable[[dict[str, Any]], Iterable[Any]],
    make_region: MakeRegion,
) -> list[tuple[str, Record | DataError]]:
    """(key, record or what is wrong with it) of each image with all its refs, in the order of their first refs.

    annotation_ids: what a ref says of its annotations, to keep those of instances.json alone. Keys are
    `"<prefix>/<image id>"`, for a ref without an image id `"<prefix>/ref <ref id>"`.
    """
    by_image: dict[int, list[dict[str, Any]]] = {}
    slots: list[tuple[str, Record | DataError]] = []
    for ref in refs:
        where = f"{refs_path}, ref {ref.get('ref_id')}"
        try:
            by_image.setdefault(integer(ref.get("image_id"), "image_id", where), []).append(ref)
        except DataError as error:
            slots.append((f"{prefix}/ref {ref.get('ref_id')}", error))
    wanted = {number for ref in refs for number in annotation_ids(ref) if isinstance(number, int)}
    instances = _read_instances(refs_path.parent / "instances.json", wanted, by_image)
    paths = folders.find_all(_file_names(instances.images), instances.path)
    files = _Files(refs_path, instances, folders, paths, make_region)
    of_images = [(f"{prefix}/{image_id}", image_id, image_refs) for image_id, image_refs in by_image.items()]
    return [(key, _slot(key, image_id, image_refs, files)) for key, image_id, image_refs in of_images] + slots


def annotation_of(ref: dict[str, Any], number: Any, where: str, instances: Instances) -> dict[str, Any]:
    """Annotation `number` of the ref's image. Raises DataError: missing, without a mask, of another image."""
    annotation = instances.annotations.get(number, {}) if isinstance(number, int) else {}
    if "segmentation" not in annotation:
        raise DataError(
            f"{where}: its annotation {number} is missing from {instances.path} or lacks 'segmentation'. "
            "Is it of the same data set?"
        )
    of = annotation.get("image_id", ref["image_id"])
    require(of == ref["image_id"], where, f"its annotation {number} is of another image, {of} ({instances.path})")
    return annotation


def sentences_of(ref: dict[str, Any], where: str, path: Path) -> tuple[str, ...]:
    """The ref's sentences, one or more. Raises DataError, naming the file of refs, for none and for an empty one."""
    sentences = list_of(dict, ref.get("sentences"), "'sentences'", where)
    require(bool(sentences), where, f"the ref has no sentences ({path}). Remove the ref, or write one", "empty caption")
    for sentence in sentences:
        text = sentence.get("sent")
        if not isinstance(text, str) or not text.strip():
            message = f"{where}: a sentence is empty ({path}). Remove it from 'sentences', or write it."
            raise DataError(message, "empty caption")
    return tuple(sentence["sent"] for sentence in sentences)


def _read_instances(path: Path, annotation_ids: set[int], image_ids: Any) -> Instances:
    """The rest of the file is let go."""
    content = read_json(path)
    listed = {part: list_of(dict, field(content, part, path), f"{part!r}", path) for part in ("images", "annotations")}
    images = {image["id"]: image for image in listed["images"] if _id(image) in image_ids}
    annotations = {a["id"]: a for a in listed["annotations"] if _id(a) in annotation_ids}
    return Instances(path, images, annotations)


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
            regions.append(files.make_region(ref, image, files.instances, f"{key}, ref {ref.get('ref_id')}"))
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
