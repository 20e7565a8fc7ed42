"""The loading recipe that maskcap replaces: Pillow and pycocotools, everything in the worker, one region a sample.

The steps of torchvision's `Resize`, `to_tensor` and `normalize`, written with Pillow and torch, so that torchvision is
not needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import torch
from PIL import Image

from maskcap.data.batch import IMAGENET_MEAN, IMAGENET_STD

coco_mask: Any = pycocotools.mask
_MEAN, _STD = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))


def load_region(json_path: Path, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One random region of an SA-1B image: pixels float32 (3, S, S), normalised; mask float32 0/1 (S, S)."""
    with open(json_path, encoding="utf-8") as file:
        annotations = json.load(file)["annotations"]
    annotation = annotations[int(rng.integers(len(annotations)))]
    with Image.open(json_path.with_suffix(".jpg")) as file:
        image = file.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    pixels_3SS = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    pixels_3SS = pixels_3SS.clone().sub_(_MEAN).div_(_STD)
    mask = Image.fromarray(coco_mask.decode(annotation["segmentation"])).resize((size, size), Image.Resampling.NEAREST)
    return pixels_3SS, torch.from_numpy(np.array(mask)).float()


def stack(regions: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """What torch's DataLoader makes of these samples: float32 (B, 3, S, S) and (B, S, S)."""
    return torch.stack([pixels for pixels, _ in regions]), torch.stack([mask for _, mask in regions])
