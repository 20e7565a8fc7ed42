from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcap.training.checkpoints.files import CheckpointFiles
from maskcap.training.checkpoints.random_states import gather_random_states, restore_random_states
from maskcap.training.checkpoints.reading import read_checkpoint


def draw() -> list[float]:
    """From each generator, one number that others precede and one that leaves a spare."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), *torch.randn(3).tolist()]


@pytest.fixture(autouse=True)
def seeded():
    """And as before for the other tests."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(1)
        np.random.seed(2)
        torch.manual_seed(3)
        draw()
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def test_every_generator_goes_on_where_it_was_saved(tmp_path: Path):
    CheckpointFiles().save_checkpoint({"random_states": gather_random_states()}, tmp_path / "last.ckpt")
    expected = [draw(), draw()]
    draw()
    restore_random_states(read_checkpoint(tmp_path / "last.ckpt")["random_states"])
    assert [draw(), draw()] == expected


def test_another_number_of_ranks_keeps_the_seeds_and_says_so(caplog: pytest.LogCaptureFixture):
    states = gather_random_states() * 2
    expected = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        restore_random_states(states)
    assert torch.equal(torch.get_rng_state(), expected)
    assert "the checkpoint is of 2 ranks and this run has 1" in caplog.text
