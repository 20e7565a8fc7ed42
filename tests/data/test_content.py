"""Bytes of files and of members of tars."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskcap.data.content import read_bytes
from maskcap.data.images import read_image
from maskcap.data.record import ImageRef, Member
from maskcap.errors import ImageDecodeError, ShardError


@pytest.fixture
def photo_HW3() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def member(tmp_path, photo_HW3) -> Member:
    """A PNG that is the second file of a tar written by tarfile."""
    file = io.BytesIO()
    Image.fromarray(photo_HW3).save(file, "PNG")
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (("a.txt", b"before"), ("a.png", file.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(tmp_path / "a.tar") as tar:
        info = tar.getmember("a.png")
    sha256 = hashlib.sha256(file.getvalue()).digest()
    return Member(str(tmp_path / "a.tar"), "a.png", info.offset_data, info.size, sha256)


def test_bytes_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"\0\xff" * 1000)
    assert read_bytes(tmp_path / "a", "k") == b"\0\xff" * 1000


def test_missing_and_unreadable_files_are_named(tmp_path):
    for path, reason in ((tmp_path / "none.jpg", "missing file"), (tmp_path, "unreadable image")):
        with pytest.raises(ImageDecodeError, match="^set/train/3: somewhere: ") as caught:
            read_bytes(path, "set/train/3: somewhere")
        assert caught.value.reason == reason


def test_an_image_inside_of_a_tar(member, photo_HW3):
    np.testing.assert_array_equal(read_image(ImageRef(member, 20, 30), key="k"), photo_HW3)


def test_a_changed_member_is_never_an_image(member):
    shard = Path(member.shard)
    data = bytearray(shard.read_bytes())
    data[member.offset + member.size // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ShardError, match="^set/train/3: .*a.tar/a.png: its .* do not have the sha256"):
        read_image(ImageRef(member, 20, 30), key="set/train/3")
    with pytest.raises(ShardError, match=f"^{re.escape(str(member))}: its "):
        read_bytes(member, "")


def test_a_member_of_a_lost_tar_names_the_sample(member):
    lost = replace(member, shard=member.shard + ".lost")
    with pytest.raises(ShardError, match="^set/train/3: .*a.tar.lost/a.png: there is no file .*a.tar.lost") as caught:
        read_image(ImageRef(lost, 20, 30), key="set/train/3")
    assert caught.value.reason == "missing shard"
