"""Peak memory and time of the vocabulary head with its cross-entropy, forward and backward: plain logits, answer_loss.

Shapes: A answer tokens, C the language model's width, V vocabulary.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.timing import table
from maskcap.losses import answer_loss, caption_loss

VOCABULARY, WIDTH = 151_674, 896  # InternVL3-1B's
TOKENS = (2048, 512)


@dataclass(frozen=True)
class HeadCase:
    """What is measured: A tokens, answer_loss (`chunked`) or plain logits, the head's weights trained or frozen."""

    tokens: int
    chunked: bool
    trained: bool


@dataclass(frozen=True)
class HeadCost:
    """Bytes at the peak above what lay in memory before (weights, states, labels), and seconds."""

    peak: int
    seconds: float


def measure_head(
    tokens: Sequence[int] = TOKENS,
    trained: Sequence[bool] = (True, False),
    vocabulary: int = VOCABULARY,
    width: int = WIDTH,
    device: str = "cpu",
) -> dict[HeadCase, HeadCost]:
    """Measure all cases, each in a process of its own, once; all of them take about two minutes on a CPU.

    2048 answer tokens are a batch of 8 images × 8 regions in both directions, with captions of about 24 tokens and
    answers with [SEG] of about 8; 512 are a quarter of that. "cpu": float32, one thread, the peak of the process's
    resident memory (Linux), processor time. "cuda": bfloat16 autocast over float32 weights, the peak of what torch
    allocated, time by the clock.
    """
    cases = [HeadCase(*choice) for choice in product(tokens, (False, True), trained)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        costs = [processes.submit(_measure, case, vocabulary, width, device) for case in cases]
        return {case: cost.result() for case, cost in zip(cases, costs, strict=True)}


def head_ratios(costs: dict[HeadCase, HeadCost]) -> dict[str, float]:
    """answer_loss ÷ plain logits, by name: memory and time, weights trained and frozen.

    The names of the largest number of tokens are bare (`head_memory_vs_plain`), the others end with theirs (`_512`).
    """
    ratios = {}
    most = max(case.tokens for case in costs)
    for case, cost in costs.items():
        if case.chunked:
            plain = costs[HeadCase(case.tokens, False, case.trained)]
            ending = ("" if case.trained else "_frozen") + ("" if case.tokens == most else f"_{case.tokens}")
            ratios[f"head_memory_vs_plain{ending}"] = cost.peak / plain.peak
            ratios[f"head_time_vs_plain{ending}"] = cost.seconds / plain.seconds
    return ratios


def head_table(costs: dict[HeadCase, HeadCost]) -> str:
    """A Markdown table, one line for each number of tokens, with weights trained and frozen."""
    lines = []
    for case, cost in costs.items():
        if case.chunked:
            plain = costs[HeadCase(case.tokens, False, case.trained)]
            line = [f"{case.tokens} tokens, weights {'trained' if case.trained else 'frozen'}"]
            line += [f"{plain.peak / 1e6:.0f}", f"{cost.peak / 1e6:.0f}", f"{cost.peak / plain.peak:.2f}×"]
            line += [f"{plain.seconds:.2f}", f"{cost.seconds:.2f}", f"{cost.seconds / plain.seconds:.2f}×"]
            lines.append(line)
    header = ["head and cross-entropy", "plain, MB", "answer_loss, MB", "", "plain, s", "answer_loss, s", ""]
    return table(header, lines)


def _measure(case: HeadCase, vocabulary: int, width: int, device: str) -> HeadCost:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weight_VC = torch.randn(vocabulary, width, device=device).mul_(0.02).requires_grad_(case.trained)
    states_AC = torch.randn(case.tokens, width, device=device).requires_grad_()
    labels_A = torch.randint(vocabulary, (case.tokens,), device=device)
    (states_AC.detach()[:2] @ weight_VC.detach()[:2].T).sum().item()  # the library's own buffers

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext():
            if case.chunked:
                loss = answer_loss(states_AC, weight_VC, labels_A)
            else:
                loss = caption_loss(F.linear(states_AC, weight_VC), labels_A)
        loss.backward()

    return _cost_on_cuda(step) if device == "cuda" else _cost_on_cpu(step)


def _cost_on_cpu(step: Callable[[], None]) -> HeadCost:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before, started = _resident("VmRSS"), time.process_time()
    step()
    return HeadCost(_resident("VmHWM") - before, time.process_time() - started)


def _cost_on_cuda(step: Callable[[], None]) -> HeadCost:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, started = torch.cuda.memory_allocated(), time.perf_counter()
    step()
    torch.cuda.synchronize()
    return HeadCost(torch.cuda.max_memory_allocated() - before, time.perf_counter() - started)


def _resident(name: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
