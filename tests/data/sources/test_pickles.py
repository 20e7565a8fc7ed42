"""The restricted unpickler: plain values of Python 2 and 3 pass, anything that could run code does not."""

from __future__ import annotations

import collections
import datetime
import os
import pickle
from pathlib import Path

import pytest

from maskcap.data.sources.pickles import read_plain_pickle
from maskcap.errors import DataError


def _read(tmp_path: Path, data: bytes):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(data)
    return read_plain_pickle(path)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_python_3(tmp_path, protocol):
    value = [{"ref_id": 1, "box": (1.5, -2), "ok": True, "none": None, "sent": "café", "big": 2**70}, []]
    assert _read(tmp_path, pickle.dumps(value, protocol)) == value
    assert _read(tmp_path, pickle.dumps({b"raw": b"bytes"}, protocol)) == {"raw": "bytes"}


def test_python_2_strings_are_utf8_or_else_latin1(tmp_path):
    # What Python 2 wrote for [{'sent': 'caf\xc3\xa9'}, 'caf\xe9', u'caf\xe9', 3L], protocols 0 and 2.
    text = b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsaS'caf\\xe9'\np4\naVcaf\xe9\np5\naL3L\na."
    binary = b"\x80\x02]q\x00(}q\x01U\x04sentq\x02U\x05caf\xc3\xa9q\x03s"
    binary += b"U\x04caf\xe9q\x04X\x05\x00\x00\x00caf\xc3\xa9q\x05\x8a\x01\x03e."
    for data in (text, binary):
        assert _read(tmp_path, data) == [{"sent": "café"}, "café", "café", 3]


class _Runs:
    def __reduce__(self):
        return os.system, ("exit 1",)


HOSTILE = {
    "posix.system": pickle.dumps([_Runs()]),
    "os.system": b"cos\nsystem\n(S'exit 1'\ntR.",
    "__builtin__.eval": b"c__builtin__\neval\n(S'1'\ntR.",
    "builtins.getattr": b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
    "subprocess.Popen": b"(isubprocess\nPopen\n.",
    "collections.OrderedDict": pickle.dumps(collections.OrderedDict(a=1)),
    "datetime.date": pickle.dumps(datetime.date(2024, 1, 1)),
    "a persistent id": b"Pmine\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_any_global_is_refused_by_name(tmp_path, name):
    with pytest.raises(DataError) as caught:
        _read(tmp_path, HOSTILE[name])
    assert f"refs(unc).p: the pickle holds {name};" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2, 3])[:-1],
        b"\x80\x63.",
        b"]q\x00(e",
        b"\x80\x02\x82\x01.",
        pickle.dumps({1}),
    ],
)
def test_damaged_or_other_content_is_an_error(tmp_path, data):
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: not a readable pickle"):
        _read(tmp_path, data)


def test_only_latin1_passes_through_codecs(tmp_path):
    with pytest.raises(DataError, match="unexpected encoding"):
        _read(tmp_path, b"c_codecs\nencode\n(Vx\nVrot13\ntR.")


def test_shared_containers_stay_shared(tmp_path):
    value: list = []
    for _ in range(60):  # 2**60 leaves if unfolded
        value = [value, value]
    read = _read(tmp_path, pickle.dumps(value, 2))
    assert read[0] is read[1]


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_plain_pickle(tmp_path / "none.p")
