from __future__ import annotations

import json

import pytest

from maskcap.data.bad_samples import BadSample, BadSampleLog, BadSamplePolicy, append_bad_samples
from maskcap.errors import ConfigError, DataError, ImageDecodeError, SequenceTooLongError


def test_reasons_come_from_the_errors():
    assert BadSample.of("k", ImageDecodeError("k: cut off.", "truncated image")).reason == "truncated image"
    assert BadSample.of("k", DataError("k: odd.")).reason == "malformed record"
    assert BadSample.of("k", SequenceTooLongError("long")).reason == "SequenceTooLongError"


def test_lines_are_json_in_utf8(tmp_path):
    append_bad_samples(tmp_path / "a" / "b.jsonl", [BadSample("é", "empty mask", 'a "b"')])
    append_bad_samples(tmp_path / "a" / "b.jsonl", [])
    assert json.loads((tmp_path / "a" / "b.jsonl").read_text(encoding="utf-8")) == {
        "key": "é",
        "reason": "empty mask",
        "message": 'a "b"',
    }


def test_the_fraction_is_of_all_samples_drawn():
    log = BadSampleLog(BadSamplePolicy("skip", 0.1), "training")
    log.begin(20)
    log.add([BadSample("a", "r", "m")], 2)
    log.add([BadSample("b", "r", "m")], 10)  # 2 bad of 12 drawn, taken as 20: a tenth is allowed
    log.add([], 8)
    with pytest.raises(DataError, match=r"training: 3 of 21 samples drawn are bad \(3 r\), more than .*=0.1 of 21"):
        log.add([BadSample("b", "r", "m")], 1)
    log.begin(20)
    assert log.counts.total() == 0


@pytest.mark.parametrize("options", [("ignore", 0.1), ("skip", -0.1), ("skip", 1.5), ("skip", float("nan"))])
def test_wrong_policies(options):
    with pytest.raises(ConfigError, match="on_bad_sample|max_bad_fraction"):
        BadSamplePolicy(*options)
