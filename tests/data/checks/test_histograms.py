"""Running histograms against numpy's on the values themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from maskcap.data.checks.histograms import Histogram, ratio_edges, whole_number_edges


def test_by_hand():
    histogram = Histogram(np.array([0, 1, 2, 4]))
    assert histogram.to_json()["mean"] is None and histogram.median_bin() is None
    histogram.add([0, 0.5, 1, 3.9, 4, 4.1, -1])
    histogram.add([])
    expected = {
        "count": 7,
        "least": -1.0,
        "most": 4.1,
        "mean": pytest.approx(12.5 / 7),
        "median_between": (1.0, 2.0),  # −1 0 .5 [1] 3.9 4 4.1
        "below": 1,
        "above": 1,
        "edges": [0.0, 1.0, 2.0, 4.0],
        "counts": [2, 1, 2],
    }
    assert histogram.to_json() == expected
    json.dumps(histogram.to_json())


def test_counts_are_numpys_and_parts_merge():
    values = np.random.default_rng(0).lognormal(0, 2, 5000)
    edges = ratio_edges(1 / 16, 16, 8)
    whole, parts = Histogram(edges), [Histogram(edges) for _ in range(3)]
    whole.add(values)
    for part, some in zip(parts, np.array_split(values, 3), strict=True):
        part.add(some)
    for part in parts[1:]:
        parts[0].merge(part)
    assert whole.counts.tolist() == parts[0].counts.tolist() == np.histogram(values, edges)[0].tolist()
    assert (whole.below, whole.above) == (int((values < edges[0]).sum()), int((values > edges[-1]).sum()))
    assert (whole.count, whole.least, whole.most) == (5000, values.min(), values.max())
    assert parts[0].total == pytest.approx(values.sum())
    low, high = whole.median_bin() or (0, 0)
    assert low <= np.sort(values)[2499] < high


@pytest.mark.parametrize(("values", "bin_"), [([-5, -4, 1], (-5, 0)), ([0, 8, 9], (4, 9)), ([4, 4, 4], (2, 4))])
def test_the_median_may_lie_beyond_the_edges(values, bin_):
    histogram = Histogram(np.array([0, 1, 2, 4]))
    histogram.add(values)
    assert histogram.median_bin() == bin_


def test_whole_numbers_have_a_bin_each_at_first():
    edges = whole_number_edges(100)
    assert edges[:33].tolist() == list(range(33))
    assert edges[33:49].tolist() == list(range(34, 66, 2)) and edges[-1] == 128
    assert set(np.diff(whole_number_edges(2**17)[32:]) / whole_number_edges(2**17)[32:-1] <= 1 / 16) == {True}


def test_ratio_edges_meet_their_ends():
    edges = ratio_edges(1e-8, 1, 5, 10)
    assert edges.size == 41 and edges[0] == 1e-8 and edges[-1] == 1
    np.testing.assert_allclose(edges[1:] / edges[:-1], 10**0.2)
