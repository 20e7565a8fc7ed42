"""Each source's own loss: sums over steps and ranks, by weights of loops."""

from __future__ import annotations

import pytest
import torch

from maskcap.loops.outputs import LoopOutput
from maskcap.training.entry_losses import EntryLosses

WEIGHTS = {"mask_to_caption": 1.0, "caption_to_mask": 0.5}


def output(**by_entry: tuple[float, int]) -> LoopOutput:
    """`cats_text=(value, count)` → an output with that."""
    found = {tuple(name.split("_")): (torch.tensor(value), count) for name, (value, count) in by_entry.items()}
    return LoopOutput(torch.zeros(()), {}, by_entry=found)  # type: ignore[arg-type]


def test_means_over_tokens_and_masks_since_the_last_time():
    """Text and masks have means of their own, and loops their weights; an entry that did not come has no value."""
    losses = EntryLosses(["cats", "dogs", "birds"], WEIGHTS, torch.device("cpu"))
    losses.add({"mask_to_caption": output(cats_text=(3.0, 10), dogs_text=(1.0, 4))})
    losses.add({"mask_to_caption": output(cats_text=(6.0, 20)), "caption_to_mask": output(cats_mask=(2.0, 3))})
    found = losses.take()
    assert found == {"source/cats": pytest.approx((30 + 120) / 30 + 0.5 * 2.0), "source/dogs": pytest.approx(1.0)}
    assert losses.take() == {}


def test_what_is_not_finite_does_not_count():
    """A step that is skipped for its loss leaves no trace."""
    losses = EntryLosses(["cats"], WEIGHTS, torch.device("cpu"))
    losses.add({"mask_to_caption": output(cats_text=(float("nan"), 10))})
    losses.add({"mask_to_caption": output(cats_text=(2.0, 5))})
    assert losses.take() == {"source/cats": pytest.approx(2.0)}


def test_a_resumed_run_goes_on_with_the_sums():
    """The state holds what was not written down yet; of other sources it is passed over."""
    losses = EntryLosses(["cats", "dogs"], WEIGHTS, torch.device("cpu"))
    losses.add({"mask_to_caption": output(cats_text=(2.0, 5))})
    state = losses.state_dict()
    again = EntryLosses(["cats", "dogs"], WEIGHTS, torch.device("cpu"))
    again.load_state_dict(state)
    for each in (losses, again):
        each.add({"mask_to_caption": output(cats_text=(5.0, 10))})
    assert again.take() == losses.take() == {"source/cats": pytest.approx(4.0)}
    other = EntryLosses(["cats", "fish"], WEIGHTS, torch.device("cpu"))
    other.load_state_dict(state)
    assert other.take() == {}
