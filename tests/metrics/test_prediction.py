from __future__ import annotations

import json

import pytest

from maskcap.metrics.prediction import Prediction

FULL = Prediction(
    key="refcoco/val/7",
    region_id="12",
    set_name="main",
    source="refcoco",
    caption="the “café”\nsign",
    references=("the café sign", "sign"),
    phrase="sign",
    predicted_caption="a sign",
    iou=0.25,
    predicted_rle={"size": [4, 5], "counts": "d0"},
    true_rle={"size": [4, 5], "counts": "04d0"},
    size=(40, 50),
    truncated=False,
    score="cycle",
    frame=2,
)
ANSWER = Prediction(
    "gcg/val/1",
    "answer",
    "main",
    "gcg",
    question="What?",
    answer="a dog",
    predicted_answer="<p> a dog </p> [SEG]",
)


@pytest.mark.parametrize("prediction", [FULL, ANSWER, Prediction("sa1b/val/1", "0", "main", "sa1b")])
def test_a_line_of_json_reads_back_equal(prediction: Prediction):
    line = prediction.to_json()
    assert "\n" not in line
    assert Prediction.from_json(line) == prediction


def test_a_line_from_before_scores_reads_as_one_without():
    fields = json.loads(FULL.to_json())
    for name in ("score", "truncated", "frame", "question", "answer", "predicted_answer"):
        del fields[name]
    read = Prediction.from_json(json.dumps(fields))
    assert read.score is None and read.truncated is None and read.iou == FULL.iou


def test_keys_stand_in_the_order_of_the_fields():
    assert list(json.loads(FULL.to_json()))[:4] == ["key", "region_id", "set_name", "source"]


def test_a_nan_iou_is_refused():
    with pytest.raises(ValueError):
        Prediction("a/b/c", "0", "main", "a", iou=float("nan")).to_json()
