"""The Java programs; tests of the real ones are skipped where there is no Java."""

from __future__ import annotations

import logging
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskcap.metrics.captions import CaptionMetrics
from maskcap.metrics.meteor import _PUNCTUATION, JavaError, Meteor, _score_line, ptb_tokenize

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no java on PATH")


@pytest.fixture(scope="module")
def meteor() -> Iterator[Meteor]:
    with Meteor() as shared:
        yield shared


def fake_java(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    java = folder / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_java_that_fails_is_reported_and_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    fake_java(tmp_path, monkeypatch, "echo broken runtime >&2; exit 3")
    with pytest.raises(JavaError, match="exited with 3.*broken runtime"):
        ptb_tokenize(["a"])
    with Meteor() as broken, pytest.raises(JavaError):
        broken.score(["a"], [["a"]])
    metrics = CaptionMetrics()
    metrics.update(["a b", "c"], [["a b"], ["c"]])
    with caplog.at_level(logging.WARNING):
        assert "caption_meteor" not in metrics.compute()
    assert len(caplog.messages) == 1


@needs_java
def test_tokens_follow_the_penn_treebank_line_by_line():
    sentences = ["A half-open, “café”!", "", "he didn't\u2028say", "  .  ", "last ||| one"]
    tokens = ptb_tokenize(sentences)
    assert len(tokens) == len(sentences)
    assert tokens[0].startswith("a half-open") and tokens[0].endswith("café")
    assert tokens[1:4] == ["", "he did n't say", ""]


def test_the_dropped_punctuation_is_pycocoevalcaps():
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    assert frozenset(PUNCTUATIONS) == _PUNCTUATION


@needs_java
def test_meteor_knows_equal_different_and_half_right_captions(meteor: Meteor):
    corpus, each = meteor.score(
        ["the red car", "a dog", "a large car", ""],
        [["the red car"], ["fine weather today"], ["the big car", "nothing here"], ["a car"]],
    )
    assert each[0] == pytest.approx(1.0)
    assert each[1] == each[3] == 0.0
    assert 0 < each[2] < 1
    assert 0 < corpus < 1


def test_a_process_that_died_is_reported_and_the_next_score_starts_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Answers one question (statistics of a sentence, its score, the corpus's), then ends.
    fake_java(tmp_path, monkeypatch, "read l; echo 1 2; read l; echo 0.25; echo 0.5; read l")
    with Meteor() as meteor:
        assert meteor.score(["a"], [["a"]]) == (0.5, [0.25])
        process = meteor._process
        with pytest.raises(JavaError, match="ended|failed"):
            meteor.score(["a"], [["a"]])
        assert process is not None and process.poll() is not None
        assert meteor.score(["a"], [["a"]]) == (0.5, [0.25])


def test_closing_and_dropping_end_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_java(tmp_path, monkeypatch, "read l; echo 1 2; read l; echo 0.25; echo 0.5; read l")
    for end in ("close", "drop"):
        meteor = Meteor()
        meteor.score(["a"], [["a"]])
        process = meteor._process
        assert process is not None and process.poll() is None
        if end == "close":
            meteor.close()
        del meteor
        assert process.poll() is not None


def test_text_cannot_break_the_protocol():
    assert _score_line("a ||| b\nc", ["d|||e", "f\u2028g"]) == "SCORE ||| d e ||| f g ||| a b c"


@needs_java
def test_all_four_scores_with_a_shared_process(meteor: Meteor, caplog: pytest.LogCaptureFixture):
    metrics = CaptionMetrics(meteor=meteor)
    captions = ["a small red circle here.", "the large blue square there", "one green triangle up left"]
    metrics.update(captions, [[caption] for caption in captions])
    scores = metrics.compute()
    metrics.close()
    assert scores == pytest.approx(
        {"caption_exact": 1.0, "caption_f1": 1.0, "caption_meteor": 1.0, "caption_cider": 10.0}
    )
    assert metrics.compute() == scores
    assert meteor._process is not None  # not this metric's to stop
    assert not caplog.messages
