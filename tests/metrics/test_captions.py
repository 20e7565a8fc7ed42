from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path

import pytest

from maskcap.metrics.captions import (
    CaptionMetrics,
    exact_match,
    normalise_caption,
    token_f1,
    tokenize_plain,
    without_tags,
)

REFERENCES = [["the small red circle"], ["a large blue square", "the blue box"], ["the green triangle on the left"]]
PREDICTIONS = ["the small red circle", "the large blue circle", "a triangle"]


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def numpy_free_cider(predictions: list[str], references: list[list[str]]) -> float:
    """CIDEr-D from its paper's formulas, on texts that are tokens already."""

    def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    total = len(references)
    score = 0.0
    for n in range(1, 5):
        seen = Counter(gram for texts in references for gram in set().union(*(grams(t, n) for t in texts)))

        def weigh(text: str, n: int = n, seen: Counter[tuple[str, ...]] = seen) -> dict[tuple[str, ...], float]:
            return {gram: k * (math.log(total) - math.log(max(1, seen[gram]))) for gram, k in grams(text, n).items()}

        for prediction, texts in zip(predictions, references, strict=True):
            p = weigh(prediction)
            for text in texts:
                r = weigh(text)
                norm = math.hypot(*p.values()) * math.hypot(*r.values())
                dot = sum(min(value, r.get(gram, 0.0)) * r.get(gram, 0.0) for gram, value in p.items())
                # the library measures lengths in bigrams
                delta = max(0, len(prediction.split()) - 1) - max(0, len(text.split()) - 1)
                score += (dot / norm if norm else 0.0) * math.exp(-(delta**2) / 72) / len(texts)
    return 10 * score / 4 / total


@pytest.mark.parametrize(
    ("text", "expected"),
    [(" The  red\tCar. ", "the red car"), ("a car .", "a car"), ("v1.5", "v1.5"), (".", ""), ("", "")],
)
def test_normalise_caption(text: str, expected: str):
    assert normalise_caption(text) == expected


def test_exact_match_accepts_any_reference():
    assert exact_match("A red car.", ["the car", "a  red car"])
    assert not exact_match("a red cart", ["a red car"])


def test_plain_tokens_drop_punctuation_and_keep_words_whole():
    assert tokenize_plain("The half-open “café” isn't, (here)!") == ["the", "half-open", "café", "isn't", "here"]


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("the red car", ["the red car"], 1.0),
        ("a red car", ["the red car", "bus"], 2 * 2 / 6),
        ("car car car", ["car"], 2 * 1 / 4),  # a repeated word counts once
        ("", ["car"], 0.0),
        ("!", ["..."], 1.0),
    ],
)
def test_token_f1_by_hand(prediction: str, references: list[str], expected: float):
    assert token_f1(prediction, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<p> the dog </p> [SEG] on <p> a rug </p> [SEG].", "the dog on a rug."),
        ("<p>a dog</p>[SEG]", "a dog"),
        ("Sure, [SEG].", "Sure,."),
        ("no tags  here", "no tags here"),
    ],
)
def test_words_without_tags(text: str, words: str):
    assert without_tags(text) == words


def test_without_java_meteor_is_left_out_and_one_warning_says_so(no_java: None, caplog: pytest.LogCaptureFixture):
    metrics = CaptionMetrics()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            metrics.reset()
            metrics.update(PREDICTIONS, REFERENCES)
            scores = metrics.compute()
    assert set(scores) == {"caption_exact", "caption_f1", "caption_cider"}
    assert scores["caption_exact"] == pytest.approx(1 / 3)
    assert scores["caption_f1"] == pytest.approx((1 + 4 / 7 + 2 / 8) / 3)
    assert scores["caption_cider"] == pytest.approx(numpy_free_cider(PREDICTIONS, REFERENCES), abs=1e-9)
    assert len(caplog.messages) == 1
    assert "METEOR is left out" in caplog.text and "no `java` on PATH" in caplog.text


def test_cider_of_identical_captions_is_ten_and_is_deterministic(no_java: None):
    captions = ["a small red circle here", "the large blue square there", "one green triangle up left"]
    metrics = CaptionMetrics(meteor=False)
    metrics.update(captions, [[caption] for caption in captions])
    first = metrics.compute()
    assert first["caption_cider"] == pytest.approx(10.0)
    assert metrics.compute() == first


def test_cider_is_left_out_where_it_is_undefined(no_java: None):
    metrics = CaptionMetrics(meteor=False)
    metrics.update(["a car"], [["a car"]])
    assert set(metrics.compute()) == {"caption_exact", "caption_f1"}
    metrics.update(["..."], [["!"]])
    metrics.reset()
    metrics.update(["a", "b"], [["..."], ["!"]])
    assert "caption_cider" not in metrics.compute()


def test_options_leave_scores_out_without_asking_for_java(no_java: None, caplog: pytest.LogCaptureFixture):
    metrics = CaptionMetrics(meteor=False, cider=False)
    assert metrics.compute() == {}
    metrics.update(PREDICTIONS, REFERENCES)
    assert set(metrics.compute()) == {"caption_exact", "caption_f1"}
    assert not caplog.messages


def test_merge_equals_one_object_that_saw_everything(no_java: None):
    first, second, whole = (CaptionMetrics(meteor=False) for _ in range(3))
    first.update(PREDICTIONS[:1], REFERENCES[:1])
    second.update(PREDICTIONS[1:], REFERENCES[1:])
    whole.update(PREDICTIONS, REFERENCES)
    first.merge(second)
    assert len(first) == 3
    assert first.compute() == whole.compute()


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], [], "1 predictions but 0"),
        (["a", "b"], [["a"], "b"], r"references\[1\] must be a list"),
        (["a"], [[]], r"references\[0\] must be a list"),
    ],
)
def test_malformed_updates_are_refused(predictions: list[str], references: list[list[str]], message: str):
    with pytest.raises(ValueError, match=message):
        CaptionMetrics(meteor=False).update(predictions, references)
