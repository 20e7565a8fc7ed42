"""Open videos: frames by their number, and the few that a process keeps open."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from maskcap.data.content import read_bytes
from maskcap.data.record import Member

OPEN_VIDEOS = 4
MEMBER_BYTES = 2**27  # of videos that come out of tars: those are kept in memory while they are open


class VideoDecoder:
    """An open video. `height` and `width` are its stream's, in pixels; `n_frames` counts the frames that are presented.

    The packets are read through once, without decoding, for the time stamps. A frame is then decoded from the last key
    frame before it, or from the frame last asked for if that lies between. One thread, on purpose: data-loader workers
    share the cores, and a decoder's threads do not survive a fork.

    Raises av.FFmpegError for damaged files and ValueError for one without video.
    """

    def __init__(self, file: str | BytesIO) -> None:
        self._file = file
        self._open()
        self._stamps: list[int] | None = None
        self._key_stamps: list[int] = []
        self._frames: Iterator[Any] = iter(())
        self._last: int | None = None  # the time stamp of the frame that `_frames` gave last

    def _open(self) -> None:
        import av

        if isinstance(self._file, BytesIO):
            self._file.seek(0)
        self._container: Any = av.open(self._file)
        try:
            if not self._container.streams.video:
                raise ValueError("the file has no video stream")
            self._stream: Any = self._container.streams.video[0]
            self._stream.codec_context.thread_count = 1
            self.height, self.width = int(self._stream.height), int(self._stream.width)
        except BaseException:
            self._container.close()
            raise

    @property
    def n_frames(self) -> int:
        """Reads the packets when it is first asked."""
        return len(self._read_stamps())

    def frame(self, number: int) -> Any | None:
        """The frame, an av.VideoFrame; None if it cannot be decoded. 0 ≤ number < n_frames."""
        wanted = self._read_stamps()[number]
        before = bisect_right(self._key_stamps, wanted)
        key = self._key_stamps[before - 1] if before else wanted
        if self._last is None or not key <= self._last < wanted:
            self._frames = self._from_key_frame(key)
        found = self._decode_to(wanted)
        if found is None:  # some containers seek imprecisely; opened anew there is nothing to get wrong
            self._frames = self._from_start()
            found = self._decode_to(wanted)
        return found

    def close(self) -> None:
        """The decoder cannot be used afterwards."""
        self._frames = iter(())
        self._container.close()

    def _read_stamps(self) -> list[int]:
        if self._stamps is None:
            presented, key_stamps = set(), set()
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    presented.update(() if packet.is_discard else (packet.pts,))
                    key_stamps.update((packet.pts,) if packet.is_keyframe else ())
            self._stamps, self._key_stamps = sorted(presented), sorted(key_stamps)
        return self._stamps

    def _decode_to(self, wanted: int) -> Any | None:
        self._last = None  # should decoding raise, the next frame begins with a seek
        for frame in self._frames:
            if frame.pts is None or frame.pts < wanted:
                continue
            if frame.pts > wanted or frame.is_corrupt:
                return None
            self._last = wanted
            return frame
        return None

    def _from_key_frame(self, key: int) -> Iterator[Any]:
        self._container.seek(key, stream=self._stream, backward=True)
        packets = self._container.demux(self._stream)
        for number, packet in enumerate(packets):
            if number == 0 and (packet.pts is None or packet.pts > key):
                return  # landed behind it: what is decoded from here may lack its references
            yield from packet.decode()

    def _from_start(self) -> Iterator[Any]:
        self._container.close()
        self._open()
        yield from self._container.decode(self._stream)


@dataclass
class _Open:
    decoder: VideoDecoder
    signature: Hashable
    bytes: int  # that it holds in memory


class DecoderCache:
    """The last videos of this process, open. A file that has changed on disk is opened anew."""

    def __init__(self, videos: int = OPEN_VIDEOS, member_bytes: int = MEMBER_BYTES) -> None:
        self._videos, self._member_bytes = videos, member_bytes
        self._open: OrderedDict[Path | Member, _Open] = OrderedDict()
        self.lock = threading.Lock()  # a decoder has one place in its file; hold it while one is used

    def get(self, path: Path | Member, where: str) -> VideoDecoder:
        """The video's decoder, opened if need be. Raises what VideoDecoder, read_bytes and os.stat raise."""
        signature = _signature(path)
        kept = self._open.get(path)
        if kept is not None and kept.signature == signature:
            self._open.move_to_end(path)
            return kept.decoder
        self.drop(path)
        data = read_bytes(path, where) if isinstance(path, Member) else None
        decoder = VideoDecoder(str(path) if data is None else BytesIO(data))
        self._open[path] = _Open(decoder, signature, 0 if data is None else len(data))
        while len(self._open) > 1 and self._is_full():
            self.drop(next(iter(self._open)))
        return decoder

    def drop(self, path: Path | Member) -> None:
        """Close a video, if it is open."""
        kept = self._open.pop(path, None)
        if kept is not None:
            kept.decoder.close()

    def _is_full(self) -> bool:
        in_memory = sum(kept.bytes for kept in self._open.values())
        return len(self._open) > self._videos or in_memory > self._member_bytes


def decoder_cache() -> DecoderCache:
    """This process's cache. A forked worker gets its own: an open file's place is shared with the parent."""
    return _cache_of(os.getpid())


@cache  # what a parent left is never touched: closing it here would be closing what it still uses
def _cache_of(process: int) -> DecoderCache:
    return DecoderCache()


def _signature(path: Path | Member) -> Hashable:
    """What changes when the file is replaced; None for a URL."""
    file = path.shard if isinstance(path, Member) else path
    if isinstance(file, str) and ("://" in file or not os.path.exists(file)):
        return None  # reading the member says what is wrong with its shard
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns
