"""Places: local folders, URLs, web servers; texts; progress."""

from __future__ import annotations

import http.server
import io
import logging
import re
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskcap.data.shards import ShardSource
from maskcap.data.shards.progress import Progress
from maskcap.data.shards.storage import is_url, list_files, place_of, read_files, write_file
from maskcap.data.shards.tar import make_header, padding, parse_header
from maskcap.data.shards.texts import Texts, repeats
from maskcap.errors import ShardError


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves parts of files where `ranges`, and lists no folder."""

    ranges = True

    def do_GET(self) -> None:
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
    write_file(str(place), b"1", 0)
    before = place.stat()
    write_file(str(place), b"1", 0)
    assert place.stat().st_ino == before.st_ino
    write_file(str(place), b"2", 0)
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
    with pytest.raises(ShardError, match="8 GiB"):
        make_header(name, 2**33)


def test_texts_and_repeats():
    texts = ["", "a", "größer", "\ud800", "a", "", "last"]
    parts = Texts.joined([Texts(texts[:2]), Texts([]), Texts(texts[2:])])
    assert list(parts) == texts and len(parts) == 7
    assert repeats(len(parts), parts.__getitem__) == {4: 1, 5: 0}
    assert repeats(0, str) == {} and repeats(3, str) == {}
    with pytest.raises(IndexError):
        parts[7]


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    with caplog.at_level(logging.INFO), Progress("shards", 2) as progress:
        progress.advance("1 record")
        progress.advance("3 records")
    assert [record.getMessage() for record in caplog.records] == ["2 of 2 shards: 3 records"]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("shards", 2) as progress:
        progress.advance("1 record")
        progress.advance("3 records")
    assert "2/2" in terminal.getvalue() and "3 records" in terminal.getvalue()
