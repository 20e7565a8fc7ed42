"""gRefCOCO: phrases for several objects of a COCO photo, for one, or for none (Liu et al. 2023)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskcap.data.record import ImageRef, Region, Segmentation
from maskcap.data.rle import decode_mask, empty_rle, encode_mask
from maskcap.data.rle_union import unite
from maskcap.data.sources.files import first_existing, read_json, require
from maskcap.data.sources.lenient import ListedSource
from maskcap.data.sources.refs import Instances, annotation_of, coco_images, ref_slots, refs_of_split, sentences_of

logger = logging.getLogger(__name__)

_REFS = "grefs(unc).json"
_NOBODY = (-1, None)  # what stands for an annotation where a phrase means none


class GRefCOCOSource(ListedSource):
    """One record an image: a region for each ref, which means several objects of it, one or none.

    root: the folder of all data sets or the set's own; `root/grefcoco/grefs(unc).json`, else `root/grefs(unc).json`,
        with `instances.json` beside it.
    split: train, val, testA or testB, as published.
    images: folder of the COCO images, or several; None searches the usual places beside the annotations.

    A region's mask is the union of its objects' masks, made when it is decoded; only polygons beside RLEs are united
    here. A ref with `no_target` has an empty mask, `may_be_empty`.

    Keys are `"grefcoco/<split>/<image id>"`, region ids the ref ids. A record with a ref whose annotation is missing,
    whose `no_target` denies its annotations or that has none without it, a -1 or null beside others, an empty sentence,
    a missing image or other bad entries is bad (see `LenientSource`): asking for it raises DataError. So does a ref
    without an image id, which has a record of its own, `".../ref <ref id>"`.

    Raises DataError for missing annotation files, a split that the file does not have, images of which none is found,
    and when every record is bad.
    """

    name = "grefcoco"

    def __init__(
        self, root: str | Path, split: str = "train", *, images: str | Path | Sequence[str | Path] | None = None
    ):
        self.skipped: dict[str, int] = {}
        path = first_existing([Path(root) / self.name / _REFS, Path(root) / _REFS], f"{_REFS} of {self.name}")
        refs = refs_of_split(read_json(path), split, path, "the file")
        folders = coco_images(images, root, path, self.name)
        make_region = functools.partial(_region, path)
        super().__init__(ref_slots(refs, path, folders, f"{self.name}/{split}", _targets, make_region), path)
        logger.info("gRefCOCO %s: %d images, %d refs", split, len(self), len(refs))

    @property
    def has_captions(self) -> bool:
        """Always: every ref has sentences."""
        return True

    @property
    def has_phrases(self) -> bool:
        """Always: the sentences single their objects out, or say what is not there."""
        return True


def _targets(ref: dict[str, Any]) -> list[Any]:
    """The ref's annotation ids: a list, or a single one; none for a phrase that means nothing here.

    What stands for nobody does so alone: beside others it stays, an annotation that is not there.
    """
    ids = ref.get("ann_id")
    listed = ids if isinstance(ids, list) else [ids]
    return [] if len(listed) == 1 and listed[0] in _NOBODY else listed


def _region(path: Path, ref: dict[str, Any], image: ImageRef | None, instances: Instances, where: str) -> Region:
    targets, none = _targets(ref), ref.get("no_target")
    require(none in (None, True, False), where, f"'no_target' must be true or false ({path})")
    stray = any(number in _NOBODY for number in targets)
    require(not stray, where, f"'ann_id' is {targets}: -1 and null mean none, and stand alone ({path})")
    require(not (none and targets), where, f"'no_target' is true, but it has annotations {targets} ({path})")
    require(bool(targets) or none is True, where, f"it has no annotations, and 'no_target' is not true ({path})")
    masks = [annotation_of(ref, number, where, instances)["segmentation"] for number in targets]
    captions = sentences_of(ref, where, path)
    height, width = (image.height, image.width) if image is not None else (1, 1)  # without an image: bad anyway
    mask = _united(masks, height, width, where) if masks and image is not None else empty_rle(height, width)
    return Region(mask, captions, id=str(ref.get("ref_id")), may_be_empty=not targets)


def _united(masks: list[Segmentation], height: int, width: int, where: str) -> Segmentation:
    """One segmentation of everything that any of the masks covers. Raises MaskDecodeError."""
    if len({isinstance(mask, Mapping) for mask in masks}) == 1:
        return unite(masks, where)
    pixels = np.zeros((height, width), np.uint8)
    for mask in masks:
        pixels |= decode_mask(mask, height, width, key=where)
    return encode_mask(pixels)
