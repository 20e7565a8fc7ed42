"""GCG of Flickr30k: `flickr_mergedGT_GCG_train.json`, a COCO-like file whose annotations point into captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskcap.data.sources.files import field, integer, list_of, read_json, require
from maskcap.data.sources.gcg import GCGSource, Grounded, Grounding

MIN_WORDS = 3  # of a caption


class GCGFlickrSource(GCGSource):
    """annotation: `{images[{id, file_name, height, width, caption}], annotations[{image_id, tokens_positive [[start,
    end], …], sam_mask: RLE, bbox [x, y, width, height], ignore}]}`.

    images: the folder of Flickr30k's images, or several; see `ImageFolders`.

    An annotation's phrase is its first place; annotations of one place are one phrase, with their masks united. What
    Sa2VA leaves out is left out and counted in `skipped`: captions of fewer than MIN_WORDS words, annotations that are
    to be ignored, without area, with boxes under one pixel or outside of the image; further places of a phrase, too.
    See GCGSource for the records, keys and errors.
    """

    name = "gcg_flickr"

    def __init__(self, annotation: str | Path, images: str | Path | Sequence[str | Path]):
        path = Path(annotation)
        content = read_json(path)
        listed = {
            part: list_of(dict, field(content, part, path), f"{part!r}", path) for part in ("images", "annotations")
        }
        of_image: dict[Any, list[dict[str, Any]]] = {}
        for number, found in enumerate(listed["annotations"]):
            image = integer(found.get("image_id"), "image_id", f"{path}, annotation {found.get('id', number)}")
            of_image.setdefault(image, []).append(found)
        skipped: Counter[str] = Counter()
        entries = []
        for number, image in enumerate(listed["images"]):
            own = integer(image.get("id"), "id", f"{path}, image {number}")
            annotations = of_image.pop(own, [])
            caption = image.get("caption")
            if isinstance(caption, str) and len(caption.split()) < MIN_WORDS:
                skipped[f"captions of fewer than {MIN_WORDS} words"] += 1
            else:
                entries.append((own, f"image {own}", (image, annotations)))
        if of_image:
            skipped["annotations of images that are not listed"] = sum(map(len, of_image.values()))
        super().__init__(path, images, entries, _read_entry, skipped)


def _read_entry(entry: tuple[dict[str, Any], list[dict[str, Any]]], where: str, skipped: Counter[str]) -> Grounded:
    image, annotations = entry
    name, caption = image.get("file_name"), image.get("caption")
    require(isinstance(name, str) and isinstance(caption, str), where, "'file_name' and 'caption' must be texts")
    height, width = (integer(image.get(side), side, where) for side in ("height", "width"))
    groundings = []
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
        start, end = places[0]
        groundings.append(Grounding(start, end, (mask,) if isinstance(mask, dict) and mask else ()))
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
