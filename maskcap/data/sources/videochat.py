"""VideoChat (Chat-UniVi's instructions): one JSON of conversations about a video each, beside the video files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskcap.data.image_sizes import video_size
from maskcap.data.record import ImageRef, Record
from maskcap.data.sources.conversations import read_turns_about_all
from maskcap.data.sources.files import ImageFolders, require
from maskcap.data.sources.json_entries import checked, keyed, read_entries
from maskcap.data.sources.packed import Talk, TalkSource
from maskcap.errors import DataError

logger = logging.getLogger(__name__)


class VideoChatSource(TalkSource):
    """One record an entry `{video, conversations[{from: human | gpt, value}]}`: all frames of the video, and turns.

    annotation: the JSON list (or a `.jsonl`). videos: the folder that entries' paths are relative to, or several; they
        are looked for as written, and an `.mkv` that is not there as `.mp4`.

    Building opens no video; a record that is asked for reads its video's packets (not its pixels) to count the frames,
    and a sample draws some of them, turned as the video asks players to. A `<video>` (or `<image>`, which both stand
    for the video) at a question's start or end is taken out; other texts stay as they are, but for `<region1>` in
    questions: there are no regions, and it becomes "region 1". An answer before the first question, and a last question
    without an answer, are left out; both, and questions with `<regionN>`, are counted in `skipped`. Keys are
    `"videochat/<file stem>/<id>"`: the entry's own `id`, else its number from 0 (`#2`, `#3` … for a repeated id). A
    conversation in the wrong order, an empty text or a missing video makes a bad record (see `LenientSource`): asking
    for it raises DataError, and so does a damaged video.

    Raises DataError for a missing or unreadable annotation file, folders without any of the videos, and when every
    record is bad.
    """

    name = "videochat"

    def __init__(self, annotation: str | Path, videos: str | Path | Sequence[str | Path]):
        path = Path(annotation)
        entries = read_entries(path)
        folders = ImageFolders(videos, exact=True)
        skipped: Counter[str] = Counter()
        named = keyed(entries, self.name, path)
        slots = ((key, _plan(entry, where, folders, skipped)) for key, where, entry in named)
        super().__init__(slots, path, _Plan)
        self.skipped = dict(skipped)
        logger.info("%s: %d records; skipped: %s", path.name, len(self), self.skipped or "nothing")


class _Plan(Talk):
    """A conversation and its video's file."""

    def record(self, key: str) -> Record:
        """Counts the video's frames. Raises ImageDecodeError."""
        assert self.image is not None  # every entry has a video
        count, height, width = video_size(self.image, f"{key}: {self.image}", upright=True)
        frames = tuple(ImageRef(self.image, height, width, number, upright=True) for number in range(count))
        return Record(key, frames[0], (), frames=frames, turns=self.turns)


def _find(name: str, folders: ImageFolders, where: str) -> Path:
    found = folders.find(name)
    if found is None and name.endswith(".mkv"):
        found = folders.find(f"{name.removesuffix('.mkv')}.mp4")
    if found is None:
        raise folders.missing(name, where, "video")
    return found


def _plan(entry: Any, where: str, folders: ImageFolders, skipped: Counter[str]) -> _Plan | DataError:
    """A good entry's plan; a bad one counts nothing as skipped."""
    counts: Counter[str] = Counter()
    try:
        name = checked(entry, where, "video", "conversations")["video"]
        require(isinstance(name, str), where, "'video' must be a path")
        turns = read_turns_about_all(entry, where, counts, ("<video>", "<image>"))
        plan = _Plan(_find(name, folders, where), turns)
    except DataError as error:
        return error
    skipped.update(counts)
    return plan
