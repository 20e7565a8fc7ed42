"""Videos, conversations, texts without an image and empty targets: counted, measured, and their problems named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from maskcap.data.checks.inspect import Grids, inspect_record
from maskcap.data.checks.statistics import Statistics
from maskcap.data.checks.walk import SourceReport, walk
from maskcap.data.record import Phrase, Record
from maskcap.data.sample import make_sample
from maskcap.errors import DataError
from maskcap.reports.check_tables import print_report
from maskcap.reports.histograms import histograms_figure

GRIDS = Grids(image_size=16, grid=4)


def sampled(record: Record) -> None:
    """All of the record, as training may draw it."""
    make_sample(record, np.random.default_rng(0), image_size=16, regions_per_image=None, frames_per_sample=100)


def test_good_records_are_counted_and_measured(spoken_records):
    statistics = Statistics()
    for number, record in enumerate(spoken_records):
        assert inspect_record(spoken_records, number, GRIDS, statistics).problems == ()
        sampled(record)
    counts = {name: count for name, count in statistics.counts.items() if count and name != "vanish_on_grid"}
    assert counts == {
        "records": 4, "videos": 1, "without_image": 1, "images": 6, "regions": 5, "regions_with_captions": 3,
        "captions": 3, "turns": 4, "answer_phrases": 2, "masks": 11, "empty_masks": 3, "empty_by_right": 3,
    }  # fmt: skip
    measured = {name: (h.count, h.total) for name, h in statistics.histograms.items()}
    assert measured["turns_per_record"] == (2, 4) and measured["frames_per_record"] == (1, 4)
    assert measured["answer_words"] == (4, 2 + 5 + 2 + 2) and measured["phrases_per_answer"] == (4, 2)
    assert measured["mask_area"][0] == 8


def _turn(number: int, **fields) -> Callable[[Record], Record]:
    """Changes a turn."""
    return lambda r: replace(r, turns=tuple(replace(t, **fields) if i == number else t for i, t in enumerate(r.turns)))


def _region(**fields) -> Callable[[Record], Record]:
    """Changes the second region."""
    return lambda r: replace(r, regions1=(r.regions1[0], replace(r.regions1[1], **fields)))


# name → (record, reason, what the message holds, change)
BADNESS: dict[str, tuple[int, str, str, Callable[[Record], Record]]] = {
    "answer": (1, "empty caption", "turn 1: the answer is empty", _turn(0, answer="")),
    "region": (1, "unknown region", "names region 9", _turn(0, question="<region9>?")),
    "phrase": (1, "bad phrase", "no part of the answer", _turn(1, phrases=(Phrase(2, 99, 0),))),
    "order": (1, "bad phrase", "out of order", _turn(1, phrases=(Phrase(13, 19, 0), Phrase(2, 7, 1)))),
    "count": (0, "missing mask", "masks of 3 frames, and the video 4", lambda r: _region(
        frame_masks=r.regions1[1].frame_masks[:3])(r)),
    "absent": (0, "empty mask", "region e1, frame 0", _region(may_be_empty=False)),
    "rle": (0, "malformed RLE", "region e1, frame 2", lambda r: _region(frame_masks=(
        *r.regions1[1].frame_masks[:2], {"size": [24, 32], "counts": [3]}, r.regions1[1].frame_masks[3]))(r)),
    "frame": (0, "missing file", "frame 3", lambda r: replace(r, frames=(
        *r.frames[:3], replace(r.frames[3], path=r.frames[3].path.with_name("gone.png"))))),
    "nothing": (2, "no regions", "no regions and no turns", lambda r: replace(r, turns=())),
}  # fmt: skip


@pytest.mark.parametrize("name", BADNESS)
def test_each_kind_of_badness(spoken_records, name: str):
    number, reason, message, change = BADNESS[name]
    record = change(spoken_records[number])
    problems = inspect_record([record], 0, GRIDS, Statistics()).problems
    assert {problem.reason for problem in problems} == {reason} and message in problems[0].message
    with pytest.raises(DataError):  # training refuses it as well
        sampled(record)


def test_of_a_video_without_masks_three_frames_are_read(spoken_records):
    video = spoken_records[0]
    gone = replace(video.frames[1], path=video.frames[1].path.with_name("gone.png"))
    frames = (video.frames[0], gone, video.frames[2], gone, video.frames[3])
    silent = replace(video, regions1=(), frames=frames, turns=spoken_records[2].turns)
    statistics = Statistics()
    assert inspect_record([silent], 0, GRIDS, statistics).problems == ()
    assert statistics.counts["images"] == 3 and statistics.histograms["frames_per_record"].most == 5


def test_files_of_frames_and_what_is_printed(spoken_records, tmp_path, capsys):
    report = SourceReport(spoken_records)
    for chunk in walk([spoken_records], GRIDS, workers=0):
        report.add(chunk)
    assert report.finish() == [] and report.files == 5  # four frames, the image; the last record has a frame again
    print_report({"train/all": report}, tmp_path)
    printed = capsys.readouterr().out
    for name in ("turns", "answer", "videos", "without", "empty"):
        assert name in printed
    titles = {axes.get_title(loc="left") for axes in histograms_figure({"train/all": report.statistics}).axes}
    assert {"turns of a conversation", "answer length", "phrases with a mask", "frames of a video"} <= titles
