"""Scenes → Osprey-724K's two layouts that we use: detail description and short form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskcap.data.scenes.grammar import format_phrase
from maskcap.data.scenes.notes import SceneNote

SHORT = "Answer the question using a single word or phrase."
_QUESTIONS = {
    "colour": f"What colour is {{region}}? {SHORT}",
    "shape": f"What is the shape of {{region}}? {SHORT}",
    "category": f"What category does {{region}} belong to? {SHORT}",
}


def write_osprey(folder: Path, notes: Sequence[SceneNote], suffix: str = "") -> None:
    """Write `osprey_detail_description{suffix}.json` and `osprey_short_form{suffix}.json`, an entry for each scene.

    Detail: one description for each region, `"<region1>: large red circle at the top left"`. Short form: for each
    region in turn its colour, its shape and its category (which is the shape, as in the instances' categories).
    """
    folder.mkdir(parents=True, exist_ok=True)
    detail = [{**_head(note), "description": _descriptions(note)} for note in notes]
    short = [{**_head(note), "conversations": _conversation(note)} for note in notes]
    (folder / f"osprey_detail_description{suffix}.json").write_text(json.dumps(detail), encoding="utf-8")
    (folder / f"osprey_short_form{suffix}.json").write_text(json.dumps(short), encoding="utf-8")


def _head(note: SceneNote) -> dict[str, Any]:
    return {
        "id": str(note.image_id),
        "file_name": note.file_name,
        "height": note.size,
        "width": note.size,
        "annotation": [{"bbox": item.bbox, "segmentation": item.segmentation} for item in note.objects],
    }


def _descriptions(note: SceneNote) -> list[str]:
    return [f"<region{k}>: {format_phrase(item.attributes)}" for k, item in enumerate(note.objects, start=1)]


def _conversation(note: SceneNote) -> list[dict[str, str]]:
    turns = []
    for k, item in enumerate(note.objects, start=1):
        answers = {"colour": item.attributes.colour, "shape": item.attributes.shape, "category": item.attributes.shape}
        for topic, question in _QUESTIONS.items():
            turns.append({"from": "human", "value": question.format(region=f"<region{k}>")})
            turns.append({"from": "gpt", "value": answers[topic]})
    return turns
