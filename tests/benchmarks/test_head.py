"""The head's benchmark at a small size: measured in processes of their own; the ratios are what they say."""

from __future__ import annotations

import pytest

from benchmarks.head import HeadCase, HeadCost, head_ratios, head_table, measure_head


@pytest.mark.skipif("sys.platform != 'linux'", reason="resident memory is read from /proc")
def test_answer_loss_needs_less_memory_than_plain_logits():
    costs = measure_head(tokens=(1024,), trained=(True,), vocabulary=60_000, width=8)
    plain, chunked = costs[HeadCase(1024, False, True)], costs[HeadCase(1024, True, True)]
    logits = 4 * 1024 * 60_000
    assert plain.peak > 1.5 * logits and chunked.peak < 0.8 * logits
    assert plain.seconds > 0 and chunked.seconds > 0


def test_each_ratio_has_a_name_and_a_line():
    costs = {
        HeadCase(tokens, chunked, trained): HeadCost(tokens * (10 if chunked else 40) * 10**6, 3.0 if trained else 2.0)
        for tokens in (20, 5)
        for chunked in (True, False)
        for trained in (True, False)
    }
    ratios = head_ratios(costs)
    endings = ("", "_frozen", "_5", "_frozen_5")
    assert set(ratios) == {f"head_{what}_vs_plain{ending}" for what in ("memory", "time") for ending in endings}
    assert ratios["head_memory_vs_plain"] == 0.25 and ratios["head_time_vs_plain_frozen"] == 1
    lines = head_table(costs).splitlines()
    assert len(lines) == 2 + 4 and "5 tokens, weights frozen" in lines[-1] and "0.25×" in lines[-1]
