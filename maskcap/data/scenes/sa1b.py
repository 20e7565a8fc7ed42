"""Scenes → SA-1B's `sa_N.json` beside each `sa_N.jpg`: masks without words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from maskcap.data.scenes.notes import SceneNote


def write_sa1b(folder: Path, notes: Sequence[SceneNote]) -> None:
    """Write one json for each scene into the folder that holds their JPEGs."""
    for note in notes:
        image = {
            "image_id": note.image_id,
            "width": note.size,
            "height": note.size,
            "file_name": note.file_name,
        }
        annotations = [
            {
                "id": note.image_id * 10 + k,
                "segmentation": item.rle,
                "bbox": item.bbox,
                "area": item.area,
                "predicted_iou": 1.0,
                "stability_score": 1.0,
                "point_coords": [[item.bbox[0] + item.bbox[2] / 2, item.bbox[1] + item.bbox[3] / 2]],
                "crop_box": [0.0, 0.0, float(note.size), float(note.size)],
            }
            for k, item in enumerate(note.objects)
        ]
        path = (folder / note.file_name).with_suffix(".json")
        path.write_text(json.dumps({"image": image, "annotations": annotations}), encoding="utf-8")
