"""A user's own plain folder: `images/NAME.jpg`, `masks/NAME.png` or `masks/NAME/*.png`, and `captions.jsonl`."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.sources.files import require, some
from maskcap.data.sources.folder_files import CAPTIONS, Scene, add_captions, list_scenes
from maskcap.data.sources.folder_masks import annotated_size, mask_objects
from maskcap.data.sources.lenient import joined
from maskcap.data.sources.planned import PlannedSource
from maskcap.errors import DataError

logger = logging.getLogger(__name__)


class FolderSource(PlannedSource):
    """One record an image with the objects of its masks, and what is said of each.

    root: a folder with
        images/NAME.jpg        (.jpg, .jpeg or .png)
        masks/NAME.png         one mask, or an index image: every value but 0 is an object. Grey, palette or 1 bit
        masks/NAME/*.png       or (and) a file for each object
        captions.jsonl         lines {"image": "NAME.jpg", "mask": "NAME.png", "caption": "…"}; may be missing

    A caption's `mask` is the file's name below `masks/` (`"NAME/2.png"`), of an index image with the object's value
    (`"NAME.png#2"`). Several lines of one mask are several captions of it. Objects without a line are regions without
    captions; images without masks, and files that are neither, are counted in `skipped`.

    Building lists the folders and reads the lines; masks become RLEs when a record is asked for. Keys are
    `"folder/<folder's name>/<NAME>"`, region ids the masks' names as captions write them.

    Bad records (see `LenientSource`; asking for one raises DataError): two images of one name, masks without an image,
    a line that is no JSON, has an unknown key, an empty caption, or names an image or mask that is not there; found
    when it is read, a mask of another size than its image's, empty, in colours, or with 255 beside other values (both
    in 8 bits: a soft edge, as more than 64 values are where no line names one), or with more than 4096 objects, a file
    for an object that holds several, and a line that does not say which of several. Building raises DataError when
    there are no images, when no image has a mask, and when every record is bad.
    """

    name = "folder"

    def __init__(self, root: str | Path):
        folder = Path(root)
        skipped: Counter[str] = Counter()
        scenes = list_scenes(folder, skipped)
        lost = add_captions(scenes, folder / CAPTIONS)
        used = {name: scene for name, scene in scenes.items() if scene.masks or scene.problems}
        skipped["images without a mask"] = len(scenes) - len(used)
        self.skipped = {reason: count for reason, count in skipped.items() if count}
        problem = "no image has a mask: masks/NAME.png, or masks/NAME/*.png, for images/NAME.jpg"
        require(bool(used), folder, problem, "missing file")
        prefix = f"{self.name}/{folder.resolve().name}"
        slots = [(f"{prefix}/{name}", _plan(scene)) for name, scene in used.items()]
        self._captioned = any(scene.captions and not scene.problems for scene in used.values())
        super().__init__([*slots, *((f"{prefix}/{place}", error) for place, error in lost.items())], folder)
        logger.info("%s: %d records; skipped: %s", folder, len(self), self.skipped or "nothing")

    @property
    def has_captions(self) -> bool:
        """Whether a line says something of a mask."""
        return self._captioned

    @property
    def has_phrases(self) -> bool:
        """Whether a line says something of a mask: captions are taken to single it out."""
        return self._captioned


@dataclass(frozen=True)
class _Plan:
    """A good image and its masks."""

    scene: Scene
    image: Path

    @property
    def text_size(self) -> None:
        """Unknown: how many objects there are stands in the masks."""
        return None

    def record(self, key: str) -> Record:
        """Read the masks. Raises DataError for what only that finds."""
        masks = self.scene.masks
        size = annotated_size(self.image, next(iter(masks.values())), key)
        regions: list[Region] = []
        for name, path in masks.items():
            indexed = any(said.rpartition("#")[0] == name for said in self.scene.captions)
            objects = mask_objects(path, size, key, indexed=indexed)
            if path != self.scene.index:
                values = some(list(objects), 8)
                problem = f"a file of masks/{path.parent.name}/ is one object, and this one has the values {values}"
                require(len(objects) == 1, f"{key}: {path}", problem, "malformed bitmap")
            regions += _regions(name, objects, self.scene.captions, f"{key}: {path}")
        return Record(key, ImageRef(self.image, *size), tuple(regions))


def _plan(scene: Scene) -> _Plan | DataError:
    if scene.problems or scene.image is None:
        return joined(scene.problems)
    return _Plan(scene, scene.image)


def _regions(name: str, objects: dict[int, dict[str, object]], said: dict[str, list[str]], where: str) -> list[Region]:
    """The regions of one mask file with their captions. Raises DataError for captions of an object that is not there,
    or of a file with several."""
    names = {value: f"{name}#{value}" for value in objects}
    there = set(names.values())
    values = some(list(objects), 8)
    unknown = [each for each in said if each.rpartition("#")[0] == name and each not in there]
    problem = f"{CAPTIONS} speaks of {', '.join(unknown)}, and its values are {values}. Correct the line"
    require(not unknown, where, problem, "missing mask")
    alone = len(objects) == 1
    problem = (
        f'it has several objects, and {CAPTIONS} does not say which of {values} it means: write "{name}#{{value}}"'
    )
    require(alone or name not in said, where, problem, "missing mask")
    return [
        Region(rle, (*said.get(name, ()), *said.get(names[value], ())), id=name if alone else names[value])
        for value, rle in objects.items()
    ]
