"""Short videos of moving shapes in SA-V's layout: `sav_N.mp4` and `sav_N_manual.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from maskcap.data.rle import encode_mask
from maskcap.data.scenes.compose import compose
from maskcap.data.scenes.draw import background, coverage, finish, paint, pick_colour, pick_radius
from maskcap.data.scenes.grammar import Attributes
from maskcap.data.scenes.scene import generator

FPS = 24
ANNOTATED_EVERY = 4  # frames: 6 annotations a second
FRAMES = 61  # 16 annotations


@dataclass(frozen=True)
class Mover:
    """An object on its way: position (x, y) at frame t is centre + swing·sin(phase + speed·t), shares of the side."""

    attributes: Attributes
    radius: float
    colour: np.ndarray
    centre: np.ndarray
    swing: np.ndarray
    phase: np.ndarray
    speed: np.ndarray
    absent: range  # frames in which it isn't there

    def position(self, frame: int) -> np.ndarray:
        """Centre of the shape in a frame, float (2,), x and y in pixels."""
        return self.centre + self.swing * np.sin(self.phase + self.speed * frame)


def write_sav(folder: Path, *, seed: int, videos: int, size: int) -> None:
    """Write `videos` clips of 61 frames at 24 frames a second, masks on every 4th frame, `size` pixels a side.

    Masks show what is visible: nearer objects hide others. In each video one object is absent for
    20 frames, from the start or later: its masks are empty there.
    """
    folder.mkdir(parents=True)
    for number in range(1, videos + 1):
        _write_video(folder / f"sav_{number:06d}.mp4", generator(seed, "sav", number), size)


def _write_video(path: Path, rng: np.random.Generator, size: int) -> None:
    movers = _movers(rng)
    ground = background(size, rng)
    frames, masklet = [], []
    for index in range(FRAMES):
        image, masks = _draw_frame(ground, movers, index, size)
        frames.append(finish(image, rng))
        if index % ANNOTATED_EVERY == 0:
            masklet.append(masks)
    _encode(path, frames)
    annotation = _annotation(path.stem, np.stack(masklet), size)
    path.with_name(f"{path.stem}_manual.json").write_text(json.dumps(annotation), encoding="utf-8")


def _movers(rng: np.random.Generator) -> list[Mover]:
    objects = compose("duplicates", 0, rng).objects[:4]
    start = int(rng.choice([0, 12, 24]))
    gone = int(rng.integers(len(objects)))
    return [
        Mover(
            attributes=item,
            radius=pick_radius(item.size, rng),
            colour=pick_colour(item.colour, rng),
            centre=rng.uniform(0.35, 0.65, 2),
            swing=rng.uniform(0.1, 0.3, 2),
            phase=rng.uniform(0, 2 * np.pi, 2),
            speed=rng.uniform(0.03, 0.08, 2),
            absent=range(start, start + 20) if k == gone else range(0),
        )
        for k, item in enumerate(objects)
    ]


def _draw_frame(
    ground: np.ndarray, movers: Sequence[Mover], index: int, size: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    image = ground.copy()
    masks = [np.zeros((size, size), np.uint8) for _ in movers]
    for k, mover in enumerate(movers):
        if index in mover.absent:
            continue
        patch, window = coverage(mover.attributes.shape, mover.position(index) * size, mover.radius * size, size)
        paint(image, mover.colour, patch, window)
        for mask in masks[:k]:
            mask[window][patch > 0.5] = 0  # later objects are nearer
        masks[k][window] = patch > 0.5
    return image, masks


def _encode(path: Path, frames: Sequence[np.ndarray]) -> None:
    """MPEG-4 part 2: an encoder that every FFmpeg build has, and that gives the same bytes every time on one thread."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=FPS, options={"qscale": "2", "flags": "+qscale+bitexact"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 12
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _annotation(name: str, masklet: np.ndarray, size: int) -> dict[str, Any]:
    """SA-V's json for masks uint8 (T, N, H, W)."""
    areas = masklet.sum(axis=(2, 3))
    seen = areas > 0
    count = masklet.shape[1]
    sizes = [float(area[there].mean()) if there.any() else 0.0 for area, there in zip(areas.T, seen.T, strict=True)]
    return {
        "video_id": name,
        "video_duration": FRAMES / FPS,
        "video_frame_count": float(FRAMES),
        "video_height": float(size),
        "video_width": float(size),
        "video_resolution": float(size * size),
        "video_environment": "Indoor",
        "video_split": "train",
        "masklet": [[encode_mask(mask) for mask in frame] for frame in masklet],
        "masklet_id": list(range(count)),
        "masklet_size_rel": [area / size**2 for area in sizes],
        "masklet_size_abs": sizes,
        "masklet_size_bucket": ["medium"] * count,
        "masklet_visibility_changes": [int(np.abs(np.diff(column.astype(int))).sum()) for column in seen.T],
        "masklet_first_appeared_frame": [float(column.argmax() * ANNOTATED_EVERY) for column in seen.T],
        "masklet_frame_count": [len(masklet)] * count,
        "masklet_edited_frame_count": [len(masklet)] * count,
        "masklet_type": ["manual"] * count,
        "masklet_stability_score": [None] * count,
        "masklet_num": count,
    }
