"""RefCOCO, RefCOCO+ and RefCOCOg: `refs(<split_by>).p` and `instances.json` beside COCO's train2014 images."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskcap.data.record import ImageRef, Region
from maskcap.data.sources.files import first_existing
from maskcap.data.sources.lenient import ListedSource
from maskcap.data.sources.pickles import read_plain_pickle
from maskcap.data.sources.refs import Instances, annotation_of, coco_images, ref_slots, refs_of_split, sentences_of

logger = logging.getLogger(__name__)


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
        refs = refs_of_split(read_plain_pickle(refs_path), split, refs_path, "the pickle")
        folders = coco_images(images, root, refs_path, dataset)
        make_region = functools.partial(_region, refs_path)
        slots = ref_slots(refs, refs_path, folders, f"{dataset}/{split}", lambda ref: [ref.get("ann_id")], make_region)
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


def _region(path: Path, ref: dict[str, Any], image: ImageRef | None, instances: Instances, where: str) -> Region:
    annotation = annotation_of(ref, ref.get("ann_id"), where, instances)
    return Region(annotation["segmentation"], sentences_of(ref, where, path), id=str(ref.get("ref_id")))
