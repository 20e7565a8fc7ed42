from __future__ import annotations

import time

import pytest
import torch

from maskcap.training.stopwatch import Stopwatch


def test_from_the_start_to_the_last_mark():
    times = iter([10.0, 11.0, 14.5, 20.0, 20.25])
    watch = Stopwatch(torch.device("cpu"), lambda: next(times))
    assert watch.read() == 0
    watch.start()
    assert watch.read() == 0  # nothing was marked
    watch.mark()
    watch.mark()
    assert watch.read() == watch.read() == 4.5
    watch.start()
    assert watch.read() == 0
    watch.mark()
    assert watch.read() == 0.25


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_queued_work_counts_and_what_comes_after_the_mark_does_not():
    matrix = torch.randn(4096, 4096, device="cuda")
    for _ in range(3):  # the first product sets the library up
        matrix @ matrix
    torch.cuda.synchronize()
    watch = Stopwatch(torch.device("cuda"), time.monotonic)
    began = time.monotonic()
    watch.start()
    for _ in range(50):
        matrix @ matrix
    watch.mark()
    queued = time.monotonic() - began
    torch.cuda.synchronize()
    ran = time.monotonic() - began
    time.sleep(0.5)
    assert queued < 0.5 * ran  # the host was ahead
    assert watch.read() == pytest.approx(ran, rel=0.2)
