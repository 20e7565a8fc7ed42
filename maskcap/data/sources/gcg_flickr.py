"""GCG of Flickr30k: `flickr_mergedGT_GCG_train.json`, a COCO-like file whose annotations point into captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from maskcap.data.sources.files import field, integer, read_json, require
from maskcap.data.sources.gcg import GCGSource, Grounded, Grounding
from maskcap.errors import DataError

MIN_WORDS = 3  # of a caption
_Entry: TypeAlias = "tuple[object, str, Any]"  # as GCGSource takes them


class GCGFlickrSource(GCGSource):
    """annotation: `{images[{id, file_name, height, width, caption}], annotations[{image_id, tokens_positive [[start,
    end], …], sam_mask: RLE, bbox [x, y, width, height], ignore}]}`.

    images: the folder of Flickr30k's images, or several; see `ImageFolders`.

    An annotation's phrase is its first place; annotations of one place are the objects of one phrase. An annotation
    without a whole `image_id` and an image without a whole `id` of its own are bad records, with the keys
    `".../annotation <id>"` and `".../image <its number>"`; so is the second image of an id. What
    Sa2VA leaves out is left out and counted in `skipped`: captions of fewer than MIN_WORDS words, annotations that are
    to be ignored, without area, with boxes under one pixel or outside of the image; further places of a phrase, too.
    See GCGSource for the records, keys and errors.
    """

    name = "gcg_flickr"

    def __init__(self, annotation: str | Path, images: str | Path | Sequence[str | Path]):
        path = Path(annotation)
        content = read_json(path)
        listed = {part: field(content, part, path) for part in ("images", "annotations")}
        for part, entries in listed.items():
            require(isinstance(entries, list), path, f"{part!r} must be a list of objects")
        skipped: Counter[str] = Counter()
        of_image, lost = _by_image(listed["annotations"], path)
        found = _images(listed["images"], of_image, path, skipped)
        if of_image:
            skipped["annotations of images that are not listed"] = sum(map(len, of_image.values()))
        super().__init__(path, images, found + lost, _read_entry, skipped)


def _by_image(annotations: list[Any], path: Path) -> tuple[dict[int, list[dict[str, Any]]], list[_Entry]]:
    """The annotations by image; an entry for each that is of no image."""
    of_image: dict[int, list[dict[str, Any]]] = {}
    lost: list[_Entry] = []
    for number, found in enumerate(annotations):
        name = f"annotation {found.get('id', number) if isinstance(found, dict) else number}"
        try:
            image = integer(field(found, "image_id", f"{path}, {name}"), "image_id", f"{path}, {name}")
            of_image.setdefault(image, []).append(found)
        except DataError as error:
            lost.append((name, name, error))
    return of_image, lost


def _images(
    images: list[Any], of_image: dict[int, list[dict[str, Any]]], path: Path, skipped: Counter[str]
) -> list[_Entry]:
    """An entry for each image, with its annotations, which are taken out of `of_image`."""
    entries: list[_Entry] = []
    seen: set[int] = set()
    for number, image in enumerate(images):
        where = f"{path}, image {number}"
        try:
            own = integer(field(image, "id", where), "id", where)
            problem = f"an earlier image has its id, {own}. Remove one of them, or give it an id of its own"
            require(own not in seen, where, problem, "duplicate key")
        except DataError as error:
            entries.append((f"image {number}", f"image {number}", error))
            continue
        seen.add(own)
        annotations, caption = of_image.pop(own, []), image.get("caption")
        if isinstance(caption, str) and len(caption.split()) < MIN_WORDS:
            skipped[f"captions of fewer than {MIN_WORDS} words"] += 1
        else:
            entries.append((own, f"image {own}", (image, annotations)))
    return entries


def _read_entry(entry: tuple[dict[str, Any], list[dict[str, Any]]], where: str, skipped: Counter[str]) -> Grounded:
    image, annotations = entry
    name, caption = image.get("file_name"), image.get("caption")
    require(isinstance(name, str) and isinstance(caption, str), where, "'file_name' and 'caption' must be texts")
    height, width = (integer(image.get(side), side, where) for side in ("height", "width"))
    objects: dict[tuple[int, int], list[Any]] = {}
    for annotation in annotations:
        of = f"{where}, annotation {annotation.get('id')}"
        reason = _left_out(annotation, height, width, of)
        if reason:
            skipped[reason] += 1
            continue
        places = annotation.get("tokens_positive")
        ok = isinstance(places, list) and bool(places) and all(_is_place(place) for place in places)
        require(ok, of, "'tokens_positive' must be a list of [start, end]", "bad phrase")
        assert isinstance(places, list)
        if len(places) > 1:
            skipped["further places of a phrase"] += len(places) - 1
        mask = annotation.get("sam_mask")
        require(not mask or isinstance(mask, dict), of, "'sam_mask' must be an RLE")
        objects.setdefault(tuple(places[0]), []).append(mask)
    groundings = [Grounding(*place, tuple(masks) if all(masks) else ()) for place, masks in objects.items()]
    return Grounded(str(name), str(caption), groundings, (height, width))


def _left_out(annotation: dict[str, Any], height: int, width: int, where: str) -> str | None:
    """Why Sa2VA does not use an annotation; None: it does."""
    if annotation.get("ignore"):
        return "annotations to be ignored"
    box = annotation.get("bbox")
    ok = isinstance(box, list) and len(box) == 4 and all(type(number) in (int, float) for number in box)
    require(ok, where, "'bbox' must be [x, y, width, height]")
    assert isinstance(box, list)
    x, y, box_width, box_height = box
    if box_width < 1 or box_height < 1:
        return "boxes under one pixel"
    if min(x + box_width, width) <= max(x, 0) or min(y + box_height, height) <= max(y, 0):
        return "boxes outside of the image"
    area = annotation.get("area", 1)
    return "annotations without area" if type(area) in (int, float) and area <= 0 else None


def _is_place(place: Any) -> bool:
    return isinstance(place, list) and len(place) == 2 and all(type(number) is int for number in place)
