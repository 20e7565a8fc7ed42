"""The same on published data, where MASKCAP_REAL_DATA names a folder with refcoco/, osprey/ and coco/ in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from maskcap.data.sa2va import Sa2VAOptions, make_sa2va_sample
from maskcap.data.sources import OspreySource, RefCOCOSource
from tests.data.sa2va.drawn import IMAGE, SURE, assert_pixels, assert_says, large, normal

ROOT = Path(os.environ.get("MASKCAP_REAL_DATA", "/nowhere"))
pytestmark = [
    pytest.mark.skipif(not (ROOT / "refcoco").is_dir(), reason="set MASKCAP_REAL_DATA to try real data"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools' own
]


def decoded(segmentation, height: int, width: int) -> np.ndarray:
    """uint8 (H, W) by pycocotools, of polygons or a code."""
    if isinstance(segmentation, list):
        segmentation = coco.merge(coco.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco.frPyObjects(segmentation, height, width)
    return np.array(coco.decode(segmentation), copy=True)


def test_refcoco(options, spelled, rng):
    for record in RefCOCOSource(ROOT, images=ROOT / "coco" / "train2014"):
        sample = make_sa2va_sample(record, rng, options(regions_per_image=None, phrase_choice="first"))
        assert record.image1 is not None
        image = Image.open(str(record.image1.path)).convert("RGB")
        assert_pixels(sample["pixel_values"], normal([np.asarray(image.resize((448, 448)))]))
        assert_pixels(sample["g_pixel_values"], large(image)[None])
        masks = [decoded(region.mask, image.height, image.width) for region in record.regions1]
        np.testing.assert_array_equal(sample["masks"].numpy(), np.stack(masks))
        asked = [f"Please segment {region.captions[0].removesuffix('.')} in this image." for region in record.regions1]
        asked[0] = f"{IMAGE}\n{asked[0]}"
        assert_says(sample, spelled([(question, SURE) for question in asked]))


@pytest.mark.parametrize("file", ["osprey_detail_description", "osprey_short_form"])
@pytest.mark.parametrize("pool", ["nearest", "area"])
def test_osprey(file: str, pool: str, options, rng):
    path = ROOT / "osprey" / f"{file}.json"
    entries = {entry["id"]: entry for entry in json.loads(path.read_text())}
    source = OspreySource(path, ROOT / "coco")
    compared = 0
    for record in source:
        chosen: Sa2VAOptions = options(pool=pool, regions_per_image=None)
        sample = make_sa2va_sample(record, rng, chosen)
        entry = entries[record.key.split("/")[-1].split("#")[0]]
        size = entry["height"], entry["width"]
        masks = torch.from_numpy(np.stack([decoded(each["segmentation"], *size) for each in entry["annotation"]]))
        if pool == "nearest":
            cells = torch.nn.functional.interpolate(masks[None], (16, 16), mode="nearest")[0]
        else:
            cells = (torch.nn.functional.interpolate(masks[None].float(), (16, 16), mode="area")[0] > 0.5).to(
                torch.uint8
            )
        full = cells.flatten(1).bool().any(dim=1)
        assert sample["prompt_masks"][full].equal(cells[full]) and sample["tiny_regions"] == int((~full).sum())
        compared += 1
    assert compared == len(source)
