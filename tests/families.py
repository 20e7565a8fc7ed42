"""A small drawn world in the layout of every family of data sets, below one root, written without maskcap's help.

`python train.py +experiment=sa2va_4b data.root=ROOT` finds its sets there, and FURTHER names the other families.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from pycocotools import mask as coco

SIDE = 48  # pixels
FRAMES = 6  # of a video
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 50)}
SHAPES = ("square", "circle")

_SOURCE = "maskcap.data.sources."
_MORE = {
    "grefcoco": ("GRefCOCOSource", {"root": "${data.root}"}),
    "describe_anything": (
        "DescribeAnythingSource",
        {
            "annotation": "${data.root}/describe_anything/annotations.jsonl",
            "images": "${data.root}/coco/train2014",
        },
    ),
    "finetune": (
        "Sa2VAFinetuneSource",
        {"annotation": "${data.root}/finetune/annotations.json", "images": "${data.root}/finetune/images"},
    ),
    "folder": ("FolderSource", {"root": "${data.root}/folder"}),
    "sa1b": ("SA1BSource", {"root": "${data.root}"}),
}


def further() -> list[str]:
    """Overrides that add the families that Sa2VA's mixture does not have."""
    found = []
    for name, (source, arguments) in _MORE.items():
        given = ", ".join(f"{key}: {value!r}" for key, value in arguments.items())
        target = f"{{_target_: {_SOURCE}{source}, _partial_: true, {given}}}"
        found.append(f"+data.train.{name}={{repeats: 1, source: {target}}}")
    return found


@dataclass(frozen=True)
class Thing:
    """A drawn object: its words and its mask, bool (H, W)."""

    words: str
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """An image uint8 (H, W, 3) and its two things."""

    number: int
    image: np.ndarray
    things: tuple[Thing, Thing]

    @property
    def file_name(self) -> str:
        """COCO's."""
        return f"COCO_train2014_{self.number:012d}.jpg"


def draw(number: int, shift: int = 0) -> Scene:
    """A square on the left and a circle on the right (or the other way round), of two colours; shift: pixels down."""
    rng = np.random.default_rng(number)
    first, second = (list(COLOURS)[int(i)] for i in rng.choice(4, 2, replace=False))
    image = np.full((SIDE, SIDE, 3), 128, np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    things = []
    for place, (colour, shape) in enumerate(zip((first, second), SHAPES if number % 2 else SHAPES[::-1], strict=True)):
        y, x, half = int(rng.integers(14, 26)) + shift, 12 + 24 * place, int(rng.integers(7, 10))
        if shape == "square":
            mask = (abs(rows - y) <= half) & (abs(columns - x) <= half)
        else:
            mask = (rows - y) ** 2 + (columns - x) ** 2 <= half**2
        image[mask] = COLOURS[colour]
        things.append(Thing(f"{colour} {shape}", mask))
    return Scene(number, image, (things[0], things[1]))


def rle(mask: np.ndarray) -> dict[str, Any]:
    """Compressed RLE as JSON has it."""
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}


def corners(mask: np.ndarray) -> list[list[float]]:
    """A polygon around the mask's box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1, x0, x1 = float(rows[0]), float(rows[-1] + 1), float(columns[0]), float(columns[-1] + 1)
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def put(path: Path, content: Any) -> None:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def save_image(path: Path, pixels: np.ndarray) -> None:
    """Write a picture in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def save_video(path: Path, frames: list[np.ndarray]) -> None:
    """Write an MP4 of 24 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_families(root: Path, count: int = 4) -> Path:
    """Every set, `count` records each. Returns the root."""
    scenes = [draw(number) for number in range(1, count + 1)]
    for scene in scenes:
        for folder in ("coco/train2014", "grandf", "flickr30k", "finetune/images", "folder/images", "llava/images"):
            save_image(root / folder / scene.file_name, scene.image)
    for dataset, split_by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd"), ("grefcoco", "")):
        _refcoco(root / dataset, scenes, split_by)
    _osprey(root / "osprey", scenes)
    _captions(root, scenes)
    _gcg(root / "gcg", scenes)
    for dataset in ("revos", "mevis", "ref_youtube_vos"):
        _referring_video(root / dataset, dataset, scenes)
    _sav(root, scenes)
    _talks(root, scenes)
    for scene in scenes:
        save_image(root / "sa1b" / f"sa_{scene.number}.jpg", scene.image)
        put(root / "sa1b" / f"sa_{scene.number}.json", _sa1b(scene))
    return root


def _refcoco(folder: Path, scenes: list[Scene], split_by: str) -> None:
    things = [(scene, number, thing) for scene in scenes for number, thing in enumerate(scene.things)]
    sizes = {"height": SIDE, "width": SIDE}
    images = [{"id": scene.number, "file_name": scene.file_name, **sizes} for scene in scenes]
    marks = [
        {"id": 10 * s.number + n, "image_id": s.number, "segmentation": corners(t.mask), "category_id": 1}
        for s, n, t in things
    ]
    put(folder / "instances.json", {"images": images, "annotations": marks})
    refs = [
        {
            "ref_id": 10 * scene.number + number,
            "ann_id": 10 * scene.number + number,
            "image_id": scene.number,
            "split": split,
            "category_id": 1,
            "file_name": f"COCO_train2014_{scene.number:012d}_{number}.jpg",
            "sentences": [{"sent": thing.words, "raw": thing.words, "tokens": thing.words.split()}],
        }
        for scene, number, thing in things
        for split in (("train", "val") if scene.number == 1 else ("train",))
    ]
    if split_by:
        (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))
        return
    for ref in refs:
        ref["ann_id"] = [ref["ann_id"]]
        ref["no_target"] = False
    for scene in scenes:
        both = [10 * scene.number, 10 * scene.number + 1]
        for more, (words, targets) in enumerate((("both things", both), ("a purple cross", [-1]))):
            refs.append(
                {
                    **refs[0],
                    "ref_id": 1000 + 10 * scene.number + more,
                    "image_id": scene.number,
                    "split": "train",
                    "ann_id": targets,
                    "no_target": targets == [-1],
                    "sentences": [{"sent": words, "raw": words, "tokens": words.split()}],
                }
            )
    put(folder / "grefs(unc).json", refs)


def _osprey(folder: Path, scenes: list[Scene]) -> None:
    heads = [
        {
            "id": str(scene.number),
            "file_name": scene.file_name,
            "height": SIDE,
            "width": SIDE,
            "annotation": [{"segmentation": rle(thing.mask), "bbox": [0, 0, 1, 1]} for thing in scene.things],
        }
        for scene in scenes
    ]
    details = [[f"<region{n}>: a {thing.words}" for n, thing in enumerate(scene.things, 1)] for scene in scenes]
    put(
        folder / "osprey_detail_description.json",
        [{**head, "description": texts} for head, texts in zip(heads, details, strict=True)],
    )
    talks = []
    for head, scene in zip(heads, scenes, strict=True):
        first, second = (thing.words for thing in scene.things)
        turns = [("Which of <region1> and <region2> is a circle?", f"The {first if 'circle' in first else second}.")]
        turns.append(("What is <region1>?", first))
        talks.append({**head, "conversations": _turns(turns)})
    put(folder / "osprey_conversation.json", talks)


def _turns(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]


def _captions(root: Path, scenes: list[Scene]) -> None:
    """Describe-Anything, Sa2VA's fine-tuning folder and the plain folder."""
    lines = [
        json.dumps({"image": scene.file_name, "mask": rle(thing.mask), "caption": thing.words})
        for scene in scenes
        for thing in scene.things
    ]
    (root / "describe_anything").mkdir(parents=True, exist_ok=True)
    (root / "describe_anything" / "annotations.jsonl").write_text("\n".join(lines))
    entries = [
        {
            "image": scene.file_name,
            "mask": [corners(thing.mask) for thing in scene.things],
            "text": [thing.words for thing in scene.things],
        }
        for scene in scenes
    ]
    put(root / "finetune" / "annotations.json", entries)
    lines = []
    for scene in scenes:
        stem = Path(scene.file_name).stem
        for number, thing in enumerate(scene.things):
            save_image(root / "folder" / "masks" / stem / f"{number}.png", thing.mask.astype(np.uint8) * 255)
            line = {"image": scene.file_name, "mask": f"{stem}/{number}.png", "caption": thing.words}
            lines.append(json.dumps(line))
    (root / "folder" / "captions.jsonl").write_text("\n".join(lines))


def _gcg(folder: Path, scenes: list[Scene]) -> None:
    of_refcocog, of_groundings, of_flickr, of_annotations = [], [], [], []
    for scene in scenes:
        first, second = scene.things
        caption = f"A {first.words} is beside a {second.words}"
        spans = [(caption.index(thing.words), caption.index(thing.words) + len(thing.words)) for thing in scene.things]
        refs = [{"sentence": thing.words, "segmentation": corners(thing.mask)} for thing in scene.things]
        of_refcocog.append({str(scene.number): {"img_file_name": scene.file_name, "caption": caption, "refs": refs}})
        groundings = {
            thing.words: {"token_positives": list(span), "rle_masks": [rle(thing.mask)]}
            for thing, span in zip(scene.things, spans, strict=True)
        }
        of_groundings.append({"file_name": scene.file_name, "caption": caption, "groundings": groundings})
        sizes = {"height": SIDE, "width": SIDE}
        of_flickr.append({"id": scene.number, "file_name": scene.file_name, "caption": caption, **sizes})
        of_annotations += [
            {
                "id": 10 * scene.number + number,
                "image_id": scene.number,
                "tokens_positive": [list(span)],
                "sam_mask": rle(thing.mask),
                "bbox": [1, 1, 20, 20],
                "ignore": 0,
            }
            for number, (thing, span) in enumerate(zip(scene.things, spans, strict=True))
        ]
    put(folder / "RefCOCOg_GCG_train.json", of_refcocog)
    put(folder / "GranDf_HA_GCG_train.json", of_groundings)
    put(folder / "OpenPsgGCG_train.json", of_groundings)
    put(folder / "flickr_mergedGT_GCG_train.json", {"images": of_flickr, "annotations": of_annotations})


def moving(scene: Scene) -> list[Scene]:
    """The scene's frames: everything moves down by a pixel a frame."""
    return [draw(scene.number, shift) for shift in range(FRAMES)]


def _referring_video(folder: Path, dataset: str, scenes: list[Scene]) -> None:
    videos: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    number = 0
    for scene in scenes:
        name, frames = f"video{scene.number}", moving(scene)
        for place, frame in enumerate(frames):
            save_image(folder / "JPEGImages" / name / f"{place:05d}.jpg", frame.image)
        expressions: dict[str, Any] = {}
        for thing in range(2):
            masks[str(number)] = [rle(frame.things[thing].mask) for frame in frames]
            expressions[str(thing)] = {
                "exp": scene.things[thing].words,
                "anno_id": [number],
                "obj_id": [thing],
            }
            number += 1
        videos[name] = {"frames": [f"{place:05d}" for place in range(FRAMES)], "expressions": expressions}
    put(folder / "meta_expressions.json", {"videos": videos})
    if dataset == "ref_youtube_vos":
        (folder / "mask_dict.pkl").write_bytes(pickle.dumps(masks))
    else:
        put(folder / "mask_dict.json", masks)


def _sav(root: Path, scenes: list[Scene]) -> None:
    captions: dict[str, Any] = {}
    for scene in scenes:
        name, frames = f"sav_{scene.number:06d}", moving(scene)
        save_video(root / "sav" / f"{name}.mp4", [frame.image for frame in frames for _ in range(4)])
        masklet = {
            "video_id": name,
            "masklet": [[rle(thing.mask) for thing in frame.things] for frame in frames],
            "masklet_id": [0, 1],
            "video_frame_count": 4.0 * FRAMES,
            "video_height": float(SIDE),
            "video_width": float(SIDE),
        }
        put(root / "sav" / f"{name}_manual.json", masklet)
        captions[name] = {
            "video_path": f"sav/{name}.mp4",
            "anno_path": f"sav/{name}_manual.json",
            "objects": {str(number): {"formated": thing.words} for number, thing in enumerate(scene.things)},
        }
    put(root / "ref_sav" / "Ref-SAV.json", captions)


def _talks(root: Path, scenes: list[Scene]) -> None:
    """LLaVA, half of it without an image, and VideoChat."""
    talks = []
    for scene in scenes:
        left = scene.things[0].words
        turns = [("<image>\nWhat is on the left?", left), ("And its colour?", left.split()[0])]
        talks.append({"id": f"a{scene.number}", "image": scene.file_name, "conversations": _turns(turns)})
        talks.append({"id": f"b{scene.number}", "conversations": _turns([("What is two and two?", "four")])})
    put(root / "llava" / "llava_v1_5_mix665k.json", talks)
    chats = []
    for scene in scenes:
        save_video(root / "videochat" / "videos" / f"{scene.number}.mp4", [frame.image for frame in moving(scene)])
        turns = [("<video>\nWhat is on the right?", scene.things[1].words)]
        chats.append({"video": f"{scene.number}.mp4", "conversations": _turns(turns)})
    put(root / "videochat" / "video_chat.json", chats)


def _sa1b(scene: Scene) -> dict[str, Any]:
    marks = [
        {
            "id": number,
            "segmentation": rle(thing.mask),
            "bbox": [1, 1, 20, 20],
            "area": int(thing.mask.sum()),
            "predicted_iou": 0.95,
            "stability_score": 0.97,
            "point_coords": [[10.0, 10.0]],
            "crop_box": [0, 0, SIDE, SIDE],
        }
        for number, thing in enumerate(scene.things)
    ]
    name = f"sa_{scene.number}.jpg"
    return {
        "image": {"image_id": scene.number, "width": SIDE, "height": SIDE, "file_name": name},
        "annotations": marks,
    }
