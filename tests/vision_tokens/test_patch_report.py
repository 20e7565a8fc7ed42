"""The numbers of one image's patches against counts by hand and a histogram per cell."""

from __future__ import annotations

import json

import numpy as np
import pytest

from maskcap.vision_tokens.block_resize import BlockResize
from maskcap.vision_tokens.patch_report import PatchView, make_patches, patch_facts, token_curves
from maskcap.vision_tokens.settings import Patches


def half_noise(size: int = 448) -> np.ndarray:
    """uint8 (size, size, 3): the left half of one colour, the right half noise."""
    image = np.full((size, size, 3), 90, np.uint8)
    image[:, size // 2 :] = np.random.default_rng(0).integers(0, 256, (size, size - size // 2, 3), np.uint8)
    return image


def view_of(image: np.ndarray, **settings: object) -> PatchView:
    return make_patches(image, Patches(**settings), BlockResize())  # pyright: ignore[reportArgumentType]


def entropy(cell: np.ndarray) -> float:
    """Of one cell, uint8 (side, side, 3), straight from the definition."""
    gray = cell.astype(np.float32) @ np.array([0.2989, 0.5870, 0.1140], np.float32)
    share = np.histogram(gray, bins=512, range=(0, 256))[0] / gray.size
    return float(-(share * np.log2(share + 1e-10)).sum())


def test_a_budget_is_spent_where_the_noise_is():
    facts = patch_facts(view_of(half_noise(), alpha=0.3))
    assert (facts["size"], facts["resized"], facts["grid"]) == ([448, 448], [448, 448], [16, 16])
    assert (facts["all"], facts["fewest"], facts["tokens"]) == (256, 16, 76)  # round(76.8) = 77; 16 + 3 · 20
    assert facts["info"] == {"base_tokens": 16, "budget": 77, "k": 20, "actual": 76}
    assert (facts["method"], facts["alpha"], facts["thresholds"], facts["cell"]) == ("budget", 0.3, None, 28)
    # 8 of 16 large cells are noise: all split, 12 of their 32 children too
    assert [level["cells"] for level in facts["levels"]] == [48, 20, 8]
    assert [level["area"] for level in facts["levels"]] == [48 / 256, 80 / 256, 128 / 256]
    covered = np.zeros((16, 16), int)
    for row, column, level in facts["cells"]:
        covered[row : row + 2**level, column : column + 2**level] += 1
        assert column < 8 if level == 2 else column >= 8
    assert (covered == 1).all() and len(facts["cells"]) == 76


def test_mean_entropy_is_that_of_a_histogram_per_cell():
    image = half_noise(140)
    facts = patch_facts(view_of(image, alpha=0.5))
    for level, cells in zip(facts["levels"], (5, 2, 1), strict=True):
        side = level["side"]
        every = [
            entropy(image[top * side :, left * side :][:side, :side]) for top in range(cells) for left in range(cells)
        ]
        assert level["grid"] == [cells, cells]
        assert level["mean_entropy"] == pytest.approx(np.mean(every), abs=1e-4)


def test_v1_and_v2_merge_the_flat_half():
    v1 = patch_facts(view_of(half_noise(), method="v1", alpha=None))
    assert (v1["tokens"], v1["thresholds"], v1["alpha"]) == (8 + 128, [3.0, 2.0], None)
    v2 = patch_facts(view_of(half_noise(), method="v2", alpha=0.5))
    mean = v2["levels"][2]["mean_entropy"]
    assert (v2["tokens"], v2["thresholds"], v2["alpha"]) == (8 + 128, None, 0.5)
    assert v2["info"]["threshold"] == pytest.approx(0.5 * mean, rel=1e-6)


def test_curves():
    view = view_of(half_noise(), method="v2", alpha=1.9)
    budget, v2, v1 = token_curves(view)
    assert (budget.method, v2.method, v1.method) == ("budget", "v2", "v1")
    assert (v1.alpha, v1.tokens, v1.thresholds) == ([None], [136], [3.0, 2.0])
    for alpha, tokens in zip(budget.alpha, budget.tokens, strict=True):
        assert alpha is not None and 0 < alpha <= 1
        assert tokens == 16 + 3 * min(max((round(alpha * 256) - 16) // 3, 0), 80)
    assert budget.tokens[-1] == 256 and len(budget.alpha) == 40
    assert v2.alpha[0] == 0 and v2.alpha[-1] == pytest.approx(1.25 * 1.9)
    assert v2.tokens[v2.alpha.index(1.9)] == view.tokens
    # noise has nearly the same entropy everywhere, twice the mean of all large cells: past 2 everything is coarse
    assert v2.tokens == sorted(v2.tokens, reverse=True) and (v2.tokens[0], v2.tokens[-1]) == (136, 16)


def test_the_chosen_point_lies_on_its_curve():
    for method, alpha in (("budget", 0.333), ("v2", 0.777), ("v1", None)):
        view = view_of(half_noise(), method=method, alpha=alpha)
        (curve,) = [curve for curve in token_curves(view) if curve.method == method]
        assert curve.tokens[curve.alpha.index(alpha)] == view.tokens


def test_v1_is_left_out_where_nothing_says_its_thresholds():
    assert [curve.method for curve in token_curves(view_of(half_noise(), levels=4))] == ["budget", "v2"]
    given = view_of(half_noise(), levels=4, method="v1", thresholds=[4, 3, 2])
    assert token_curves(given)[-1].thresholds == [4.0, 3.0, 2.0]


@pytest.mark.parametrize("method", ["budget", "v1", "v2"])
def test_an_image_of_a_few_cells_has_empty_levels_and_is_json(method: str):
    facts = patch_facts(view_of(np.zeros((10, 300, 3), np.uint8), method=method, alpha=0.5))
    assert facts["grid"] == [1, 11] and facts["tokens"] == facts["all"] == facts["fewest"] == 11
    assert [level["mean_entropy"] for level in facts["levels"]] == [0.0, None, None]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
