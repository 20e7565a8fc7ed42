"""The pictures of a data set's tilings draw what its survey says, and pass over images that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskcap.data.record import ImageRef, Record
from maskcap.reports.figures import figure_to_array
from maskcap.reports.tilings import samples_figure, tilings_figure
from maskcap.vision_tokens.geometry import Geometry
from maskcap.vision_tokens.rule import TilingRule
from maskcap.vision_tokens.survey import Gathered, survey

RULE = TilingRule(Geometry(crop=56, patch=7, margins=(2, 2), pool=2))
SIZES = [(50, 50), (60, 90), (60, 90), (90, 60), (140, 200)]


@pytest.fixture
def gathered(tmp_path: Path) -> Gathered:
    """Five pictures, of which the second cannot be read."""
    records = []
    for number, size in enumerate(SIZES):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((*size, 3), 40 * number, np.uint8)).save(path)
        records.append(Record(f"set/{number}", ImageRef(path, *size), ()))
    (tmp_path / "1.png").unlink()
    made = Gathered(RULE.choose, 4, np.random.default_rng(0))
    for index in range(len(records)):
        made.add(records, index)
    return made


@pytest.mark.parametrize("listed", ["crops", "tokens", "sizes"])
def test_bars_are_the_surveys_numbers(gathered: Gathered, listed: str):
    options = {"tokens": {"vision_tokens": [48, 80]}, "sizes": {"image_sizes": ["60x90", "84x84"]}}.get(listed, {})
    rule = TilingRule(RULE.geometry, **options)
    found = survey(gathered, rule, [2, 4])
    figure = tilings_figure(found)
    aspects, tilings, tokens, entries = figure.axes
    assert "5 images of 4 sizes" in figure.get_suptitle()
    assert sum(bar.get_height() for bar in aspects.patches) == 5
    assert [bar.get_height() for bar in tilings.patches] == list(found.tilings.values())
    labels = [label.get_text() for label in tilings.get_xticklabels()]
    assert labels == [f"{rows}×{columns}" for rows, columns in found.tilings]
    assert sum(bar.get_height() for bar in tokens.patches) == 10  # slots and kept
    shares = [bar.get_width() for bar in entries.patches]
    assert shares == pytest.approx([100 * entry.fit.share for entry in found.entries])
    names = [label.get_text() for label in entries.get_yticklabels()]
    assert [name.split()[0] for name in names] == [entry.entry for entry in found.entries]
    assert figure_to_array(figure).std() > 10


def test_many_tilings_share_a_bar():
    records = [Record(f"set/{n}", ImageRef(Path(f"{n}"), 30 * (n % 6) + 40, 30 * (n // 6) + 40), ()) for n in range(36)]
    made = Gathered(TilingRule(RULE.geometry, max_crops=36).choose, 1, np.random.default_rng(0))
    for index in range(36):
        made.add(records, index)
    figure = tilings_figure(survey(made, TilingRule(RULE.geometry, max_crops=36), [2]))
    bars = figure.axes[1].patches
    assert len(bars) == 17 and sum(bar.get_height() for bar in bars) == 36
    assert figure.axes[1].get_xticklabels()[-1].get_text().endswith("others")
    figure_to_array(figure)


def test_samples_are_what_can_be_read_fewest_crops_first(gathered: Gathered):
    sheet = samples_figure(gathered.evenly(), 12, RULE)
    titles = [axes.get_title(loc="left") for axes in sheet.axes]
    expected = {f"{height} × {width} px": "{} × {}".format(*RULE.choose(height, width)) for height, width in SIZES}
    assert {title.split("\n")[1]: title.split(",")[0] for title in titles} == expected and len(titles) == 4
    assert "32 tokens" in titles[0] and "140 × 200 px" in titles[-1]
    figure_to_array(sheet)
    assert len(samples_figure(gathered.evenly(), 2, RULE).axes) == 2
    nothing = samples_figure([], 12, RULE)
    assert "no image can be read" in nothing.texts[0].get_text()


def test_a_stored_copy_of_another_size_is_drawn_as_large_as_it_was_annotated(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(path)
    sheet = samples_figure([(6, ImageRef(path, 60, 90, stored=(30, 30)))], 1, RULE)
    assert sheet.axes[0].images[0].get_array().shape == (60, 90, 3)  # type: ignore[union-attr]
