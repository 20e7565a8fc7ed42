"""What the model said about one region, or to one question, beside the truth: one line of `predictions.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Prediction:
    """One region of an evaluated split; None stands for what the data set lacks or the run did not ask for.

    A region that was segmented several times (by further phrases, from its box, by the model's own caption) comes again
    for each, with `predicted_caption` on the first line only: group by `score` before averaging `iou`. Of a video, a
    region comes again for each frame. The answer to a record's last question has a line of its own, before the lines
    of the masks in it.

    key, region_id:    which record and which of its regions; "answer": the line is of the whole record.
    set_name, source:  the evaluated set ("main", "content", …) and the source (first part of the key).
    caption:           the true caption; `references` holds every accepted one.
    phrase:            the words given to caption → mask; None beside a mask: it was asked for by the true box.
    predicted_caption: the answer of mask → caption.
    iou:               of the predicted mask with the true one, 0..1, both at the resized image's size.
    predicted_rle, true_rle: compressed RLE `{"size": [S, S], "counts": str}` on the resized image (cross_frame: on the
                       other frame's).
    size:              (height, width) of the original image in pixels, to resize the masks back to.
    truncated:         whether the predicted caption (answer) was cut at `max_new_tokens`.
    score:             what asked for the mask: phrases, prompts, cycle (the model's own caption), cross_frame (the
                       same, mask of the other frame), grounded (a [SEG] of a predicted answer: the one that fits this
                       region best, one to one; no predicted mask where none is left); None: there is no mask, or the
                       file is older than this field.
    frame:             which of a video's frames the mask is of, from 0 among those that were looked at; None: a still.
    question, answer, predicted_answer: the record's last question, its true answer, and the model's, with its tags.
    """

    key: str
    region_id: str
    set_name: str
    source: str
    caption: str | None = None
    references: tuple[str, ...] = ()
    phrase: str | None = None
    predicted_caption: str | None = None
    iou: float | None = None
    predicted_rle: Mapping[str, object] | None = None
    true_rle: Mapping[str, object] | None = None
    size: tuple[int, int] | None = None
    truncated: bool | None = None
    score: str | None = None
    frame: int | None = None
    question: str | None = None
    answer: str | None = None
    predicted_answer: str | None = None

    def to_json(self) -> str:
        """One line of JSON without a line break, keys in the order of the fields.

        Raises ValueError on a NaN `iou`, TypeError on an RLE whose counts are bytes.
        """
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Prediction:
        """The inverse of `to_json`. Raises TypeError on unknown or missing keys."""
        fields = json.loads(line)
        if fields.get("size") is not None:
            fields["size"] = tuple(fields["size"])
        return cls(**{**fields, "references": tuple(fields.get("references", ()))})
