"""Which objects stand in a scene: four kinds of scene, each testing another way of telling objects apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskcap.data.scenes.grammar import COLOURS, CONTENT, PLACES, SHAPES, SIZES, VALUES, Attributes, differing

KINDS = ("random", "duplicates", "twins", "pair")
_ANYWHERE = PLACES[0]  # stands in while contents are chosen; _place gives every object its own cell


@dataclass(frozen=True)
class Composition:
    """Objects of one scene, 2 to 5, in distinct places; the first `referred` of them get sentences."""

    kind: str
    objects: tuple[Attributes, ...]
    referred: int


def compose(kind: str, index: int, rng: np.random.Generator) -> Composition:
    """Choose a scene's objects.

    random      2–5 independent objects.
    duplicates  a target and 2–4 distractors that each differ from it in exactly one of size, colour, shape;
                no two objects of equal content, so content alone decides and place need not be named.
    twins       two objects of equal content and 0–3 others: only place decides.
    pair        a minimal pair: two objects that differ in exactly one attribute (colour, size, shape in turn by
                `index`) and 0–2 others, any other two objects differing in at least two; only the pair gets sentences.
    """
    makers = {"random": _random, "duplicates": _duplicates, "twins": _twins}
    contents = _pair(CONTENT[index % len(CONTENT)], rng) if kind == "pair" else makers[kind](rng)
    referred = 2 if kind == "pair" else len(contents)
    if kind != "pair":
        contents = [contents[i] for i in rng.permutation(len(contents))]
    return Composition(kind, _place(contents, rng), referred)


def _random(rng: np.random.Generator) -> list[Attributes]:
    return [_any_content(rng) for _ in range(rng.integers(2, 6))]


def _duplicates(rng: np.random.Generator) -> list[Attributes]:
    target = _any_content(rng)
    objects = [target]
    count = 1 + int(rng.integers(2, 5))
    while len(objects) < count:
        distractor = _change(target, CONTENT[rng.integers(len(CONTENT))], rng)
        if distractor not in objects:
            objects.append(distractor)
    return objects


def _twins(rng: np.random.Generator) -> list[Attributes]:
    twin = _any_content(rng)
    others: list[Attributes] = []
    count = int(rng.integers(0, 4))
    while len(others) < count:
        other = _any_content(rng)
        if other != twin:
            others.append(other)
    return [twin, twin, *others]


def _pair(attribute: str, rng: np.random.Generator) -> list[Attributes]:
    first = _any_content(rng)
    objects = [first, _change(first, attribute, rng)]
    count = 2 + int(rng.integers(0, 3))
    while len(objects) < count:
        other = _any_content(rng)
        if all(len(differing(other, present)) >= 2 for present in objects):
            objects.append(other)
    return objects


def _any_content(rng: np.random.Generator) -> Attributes:
    size, colour, shape = (values[rng.integers(len(values))] for values in (SIZES, COLOURS, SHAPES))
    return Attributes(size, colour, shape, _ANYWHERE)


def _change(attributes: Attributes, name: str, rng: np.random.Generator) -> Attributes:
    others = [value for value in VALUES[name] if value != getattr(attributes, name)]
    return attributes.with_value(name, others[rng.integers(len(others))])


def _place(contents: list[Attributes], rng: np.random.Generator) -> tuple[Attributes, ...]:
    cells = rng.permutation(len(PLACES))[: len(contents)]
    return tuple(content.with_value("place", PLACES[cell]) for content, cell in zip(contents, cells, strict=True))
