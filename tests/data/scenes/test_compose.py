from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from maskcap.data.scenes.compose import KINDS, Composition, compose
from maskcap.data.scenes.grammar import Attributes


def draw(kind: str, count: int = 300) -> list[Composition]:
    return [compose(kind, i, np.random.default_rng([7, i])) for i in range(count)]


def distance(a: Attributes, b: Attributes) -> int:
    return sum(x != y for x, y in zip(a.content, b.content, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_two_to_five_objects_in_distinct_places(kind: str):
    scenes = draw(kind)
    for scene in scenes:
        assert 2 <= len(scene.objects) <= 5
        assert len({item.place for item in scene.objects}) == len(scene.objects)
        assert scene.referred == (2 if kind == "pair" else len(scene.objects))
    assert len({item.place for scene in scenes for item in scene.objects}) == 9


def test_duplicates_have_a_target_that_all_others_differ_from_in_one_attribute():
    for scene in draw("duplicates"):
        assert len(scene.objects) >= 3
        assert len({item.content for item in scene.objects}) == len(scene.objects)
        assert any(
            all(distance(target, other) == 1 for other in scene.objects if other != target) for target in scene.objects
        )


def test_twins_share_their_content_and_nobody_else_has_it():
    for scene in draw("twins"):
        contents = Counter(item.content for item in scene.objects)
        assert 2 in contents.values()


def test_minimal_pairs_differ_in_one_attribute_and_everything_else_in_two():
    attributes = Counter()
    for scene in draw("pair"):
        a, b = scene.objects[:2]
        assert distance(a, b) == 1
        attributes[[x != y for x, y in zip(a.content, b.content, strict=True)].index(True)] += 1
        for pair in combinations(scene.objects, 2):
            assert pair == (a, b) or distance(*pair) >= 2
    assert attributes == {0: 100, 1: 100, 2: 100}
