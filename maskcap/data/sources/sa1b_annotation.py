"""One parsed `sa_N.json` of SA-1B → image size and regions; the files may lie in folders or in the published tars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskcap.data.record import Region
from maskcap.data.sources.files import field, integer, list_of
from maskcap.errors import DataError


@dataclass(frozen=True)
class SA1BAnnotation:
    """Size of the image in pixels, and its `annotations` as they are: objects with a 'segmentation' each, at least one.

    name: the image's own file name by the annotation, where it gives one.
    """

    height: int
    width: int
    annotations: Sequence[Mapping[str, Any]]
    name: str | None = None


@dataclass(frozen=True)
class SA1BFilters:
    """Least values of a region that is kept; 0 keeps all. area in pixels, the others in [0, 1]."""

    area: float = 0
    predicted_iou: float = 0.0
    stability_score: float = 0.0

    @property
    def active(self) -> dict[str, float]:
        """Field of the annotation → its least value, of the filters that are set."""
        return {name: limit for name, limit in vars(self).items() if limit > 0}


def read_annotation(content: Any, where: object) -> SA1BAnnotation:
    """Check a parsed JSON. Raises DataError naming `where`: malformed, or an image without annotations."""
    image = field(content, "image", where)
    annotations = list_of(dict, field(content, "annotations", where), "'annotations'", where)
    if not annotations:
        raise DataError(f"{where}: the image has no annotations. Remove the image and its JSON.", "no regions")
    for i, annotation in enumerate(annotations):
        if "segmentation" not in annotation:
            field(annotation, "segmentation", f"{where}, annotation {annotation.get('id', i)}")
    height, width = (integer(field(image, side, where), side, where) for side in ("height", "width"))
    name = image.get("file_name")
    return SA1BAnnotation(height, width, annotations, name if isinstance(name, str) else None)


def make_regions(
    annotations: Sequence[Mapping[str, Any]],
    filters: SA1BFilters,
    where: object,
    skipped: Counter[str] | None = None,
) -> tuple[Region, ...]:
    """The regions that pass the filters, undecoded, without captions; `skipped` counts the others by reason.

    Raises DataError for an annotation without a number that a filter needs.
    """
    kept, limits = [], filters.active
    for annotation in annotations:
        failed = _first_failed(annotation, limits, where) if limits else None
        if failed is None:
            kept.append(annotation)
        elif skipped is not None:
            skipped[f"regions below the least {failed}"] += 1
    return tuple(Region(mask=a["segmentation"], captions=(), id=str(a.get("id", i))) for i, a in enumerate(kept))


def _first_failed(annotation: Mapping[str, Any], limits: Mapping[str, float], where: object) -> str | None:
    """The first filter that the region fails, or None."""
    for name, limit in limits.items():
        value = annotation.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise DataError(
                f"{where}, annotation {annotation.get('id')}: no number {name!r} to filter by. Unset the filter."
            )
        if not value >= limit:
            return name
    return None
