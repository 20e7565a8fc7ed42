"""What a sample draws: regions that turns speak of always, a video's frames one a span."""

from __future__ import annotations

import numpy as np
import pytest

from maskcap.data.choices import check_frames, draw_frames, draw_regions
from maskcap.data.record import Phrase, Record, Turn
from maskcap.errors import ConfigError


@pytest.mark.parametrize(("count", "wanted"), [(7, 3), (5, 5), (100, 8), (6, 5)])
def test_one_frame_from_each_equal_span(count, wanted):
    """Every draw lies in its span, and over many draws every frame comes."""
    rng = np.random.default_rng(0)
    draws = np.array([draw_frames(count, wanted, rng, "random") for _ in range(3000)])
    bounds = [span * count // wanted for span in range(wanted + 1)]
    for span in range(wanted):
        assert set(draws[:, span]) == set(range(bounds[span], bounds[span + 1]))


def test_short_videos_are_shown_whole_and_the_middle_is_fixed():
    """Without a draw in either case."""
    rng = np.random.default_rng(0)
    state = rng.bit_generator.state
    assert draw_frames(3, 5, rng, "random") == [0, 1, 2]
    assert draw_frames(9, 3, rng, "middle") == [1, 4, 7]
    assert rng.bit_generator.state == state


def test_regions_of_turns_always_come(image_ref, region):
    """Named ones and those with a [SEG]; of the others so many as are wanted, and only with captions."""
    regions = [region(n) if n < 4 else region(n, captions=()) for n in range(7)]
    turns = (Turn("<region6>?", "a cat", (Phrase(0, 5, 4),)),)
    record = Record("tiny/train/1", image_ref("a"), tuple(regions), turns=turns)
    drawn = [draw_regions(record, 2, np.random.default_rng(seed)) for seed in range(50)]
    assert all({4, 5} <= set(each) and len(each) == 4 and each == sorted(each) for each in drawn)
    assert {number for each in drawn for number in each} == {0, 1, 2, 3, 4, 5}
    assert draw_regions(record, None, np.random.default_rng(0)) == [0, 1, 2, 3, 4, 5]


def test_impossible_choices_are_config_errors():
    """Each says what to give."""
    with pytest.raises(ConfigError, match="frames_per_sample=0: needs at least 1"):
        check_frames(0, "random")
    with pytest.raises(ConfigError, match='frame_choice=\'last\': choose "middle" or "random"'):
        check_frames(2, "last")
