"""Places: local folders, URLs, web servers; texts."""

from __future__ import annotations

import errno
import http.server
import io
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from maskcap.data.shards import ShardSource
from maskcap.data.shards.atomic import remove_stale, temporary_path, write_file, write_hint
from maskcap.data.shards.storage import (
    describe_url,
    digest,
    exists,
    is_url,
    list_files,
    place_of,
    read_file,
    read_files,
    remove,
)
from maskcap.data.shards.tar import make_header, padding, parse_header
from maskcap.data.shards.texts import Texts, repeats
from maskcap.data.shards.write import write_shards
from maskcap.errors import ConfigError, ShardError


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves parts of files where `ranges`, lists no folder, and answers `refused` with 403."""

    ranges = True
    refused = re.compile("(?!)")

    def do_HEAD(self) -> None:
        if self.refused.search(self.path):
            self.send_error(403)
        else:
            super().do_HEAD()

    def do_GET(self) -> None:
        if self.refused.search(self.path):
            self.send_error(403)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        part = data[int(wanted[1]) : int(wanted[2]) + 1] if wanted and self.ranges else data
        self.send_response(206 if wanted and self.ranges else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of `tmp_path`."""
    pytest.importorskip("aiohttp")
    monkeypatch.chdir(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_web_server_serves_both_kinds(
    server: str, shards: Path, raw_tars: Path, source, assert_same, monkeypatch: pytest.MonkeyPatch
):
    assert_same(ShardSource(f"{server}/shards"), source())
    tars = [f"{server}/raw/{path.name}" for path in sorted(raw_tars.glob("*.tar"))]
    assert_same(ShardSource(tars), ShardSource(raw_tars))
    (shards / "shard-000002.tar").unlink()
    assert sorted(ShardSource(f"{server}/shards").bad) == [10, 11, 12, 13, 14]
    there = ShardSource(f"{server}/shards")
    monkeypatch.setattr(Server, "ranges", False)
    with pytest.raises(ShardError, match="does not serve parts of files"):
        there[1]


def test_a_refusal_is_not_a_missing_file(server: str, shards: Path, source, monkeypatch: pytest.MonkeyPatch):
    def refuse(pattern: str) -> None:
        monkeypatch.setattr(Server, "refused", re.compile(pattern))

    refuse("")
    for place in (f"{server}/shards", f"{server}/raw/sa_000000.tar", f"{server}/raw/*.tar"):
        with pytest.raises(ShardError, match=rf"{re.escape(place)}: .*403") as error:
            ShardSource(place)
        assert "there is no" not in str(error.value) and "no such" not in str(error.value)
    with pytest.raises(ConfigError, match=rf"out={server}/shards: cannot be written \(.*403"):
        write_shards(source(), f"{server}/shards", workers=0)
    for call in (exists, list_files, read_file, describe_url, digest, remove):
        with pytest.raises(OSError, match="403") as refused:
            call(f"{server}/shards/index.json")
        assert not isinstance(refused.value, FileNotFoundError), call
    refuse(r"000001\.tar")
    there = ShardSource(f"{server}/shards")
    assert sorted(there.bad) == [5, 6, 7, 8, 9] and "shard-000001.tar: cannot be read (ClientRes" in str(there.bad[5])
    refuse(r"000001\.json")
    assert "shard-000001.json: cannot be read (ClientRes" in str(ShardSource(f"{server}/shards").bad[5])
    refuse(r"shards/?$")  # many servers list no folder in these words
    there = ShardSource(f"{server}/shards")
    assert there.bad == {}
    refuse("tar")
    with pytest.raises(ShardError, match=r"shard-000000\.tar cannot be read \(ClientResponseError: 403"):
        there[0]
    refuse("(?!)")
    assert exists(f"{server}/shards/index.json") and not exists(f"{server}/shards/nothing")
    with pytest.raises(FileNotFoundError):
        describe_url(f"{server}/shards/nothing")


def test_a_server_that_does_not_answer_is_named(source):
    pytest.importorskip("aiohttp")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/shards"
        for place in (url, f"{url}/*.tar", f"{url}/a.tar"):
            with pytest.raises(ShardError, match=rf"{re.escape(place)}: .*Connect call failed"):
                ShardSource(place)
        with pytest.raises(ConfigError, match=rf"out={url}: cannot be written \(Connect call failed"):
            write_shards(source(), url, workers=0)


def test_temporary_files_of_dead_runs_are_removed_and_no_others(tmp_path: Path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    place = f"{tmp_path}/shard-000000.tar"
    mine, init, dead = (Path(temporary_path(place, run)) for run in (os.getpid(), 1, gone.pid))
    assert mine.parent == tmp_path and mine != Path(temporary_path(place, os.getpid()))
    host = mine.name.split(".")[3]
    fresh, old = (Path(str(dead).replace(host, other)) for other in ("0" * 8, "1" * 8))
    others = [tmp_path / ".shard-000000.tar.tmp", Path(place)]
    for path in (mine, init, dead, fresh, old, *others):
        path.touch()
    os.utime(old, (0, time.time() - 90000))
    assert sorted(remove_stale(str(tmp_path))) == sorted([dead.name, old.name])
    assert sorted(tmp_path.iterdir()) == sorted([mine, init, fresh, *others])


def test_what_an_error_of_writing_may_mean():
    assert write_hint(OSError(errno.ENOSPC, "")) == " Is the disk full?"
    assert "removed meanwhile" in write_hint(OSError(errno.ENOENT, "")) and write_hint(OSError(errno.EACCES, "")) == ""


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert place_of("a/../b") == f"{tmp_path}/b" and place_of(f"file://{tmp_path}/b/") == f"{tmp_path}/b"
    assert place_of("s3://bucket/folder/") == "s3://bucket/folder" and is_url("simplecache::s3://bucket")
    assert not is_url("/folder") and not is_url("folder:x/y")
    assert list_files(str(tmp_path / "nowhere")) == {}
    (missing,) = read_files([str(tmp_path / "nowhere")])
    assert isinstance(missing, FileNotFoundError)


def test_a_file_with_these_bytes_is_left_as_it_is(tmp_path: Path):
    place = tmp_path / "a.json"
    write_file(str(place), b"1")
    before = place.stat()
    write_file(str(place), b"1")
    assert place.stat().st_ino == before.st_ino
    write_file(str(place), b"2")
    assert place.read_bytes() == b"2" and place.stat().st_ino != before.st_ino and len(list(tmp_path.iterdir())) == 1


def test_headers_are_those_of_tarfile():
    name, data = "000000012.jpg", b"x" * 700
    ours = make_header(name, len(data)) + data + bytes(padding(len(data))) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(ours)) as tar:
        (member,) = tar.getmembers()
        assert (member.name, tar.extractfile(member).read()) == (name, data)  # pyright: ignore
    theirs = io.BytesIO()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    assert theirs.getvalue().startswith(ours)
    block = bytearray(ours[:512])
    for place in (*range(148), *range(156, 512)):  # between them stands the checksum
        block[place] ^= 16
        assert isinstance(parse_header(bytes(block)), str), place
        block[place] ^= 16
    backwards = tarfile.TarInfo(name)
    backwards.size = -512
    assert "a size of -512 bytes" in str(parse_header(backwards.tobuf(tarfile.GNU_FORMAT)))
    with pytest.raises(ShardError, match="8 GiB"):
        make_header(name, 2**33)


def test_texts_and_repeats():
    texts = ["", "a", "größer", "\ud800", "a", "", "last"]
    parts = Texts.joined([Texts(texts[:2]), Texts([]), Texts(texts[2:])])
    assert list(parts) == texts and len(parts) == 7
    assert repeats(len(parts), parts.__getitem__) == {4: 1, 5: 0}
    hashes, asked = np.array([hash(text) for text in texts], np.int64), list[int]()
    assert repeats(len(parts), lambda i: asked.append(i) or parts[i], hashes) == {4: 1, 5: 0}
    assert asked == [0, 1, 4, 5]  # only those whose hashes are alike
    assert repeats(0, str) == {} and repeats(3, str) == {}
    with pytest.raises(IndexError):
        parts[7]
