"""Two ranks' batches as one: the contrast's gradients, ranks that have nothing or fail, the logs of all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from maskcap.errors import OutOfMemory
from maskcap.loops.global_batch import GlobalBatch, merge_logs
from maskcap.loops.outputs import LoopOutput, weighted_sum
from maskcap.losses import phrase_contrast
from tests.processes import run_ranks

PHRASES = ["red ball", "blue box", "red ball"]  # two of rank 0, one of rank 1


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and the scale of all ranks' regions."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(3, 4, generator=generator).requires_grad_() for _ in range(2))
    return query, key, torch.tensor([0.7], requires_grad=True)


def output_of(contrast: torch.Tensor, count: int) -> LoopOutput:
    """A loop's output of that loss alone."""
    return weighted_sum({"contrast": (2.0, contrast)}, {"contrast": "regions"}, {"regions": count})


def learn(folder: Path) -> None:
    """One rank of two: a step with both, one that rank 1 joins with nothing, one in which it fails."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mine = slice(2, 3) if rank else slice(0, 2)
    query, key, scale = rows()
    ranks = GlobalBatch(torch.device("cpu"))
    ranks.begin(1, 1)
    contrast = ranks.contrast(query[mine], key[mine], PHRASES[mine], scale)
    ranks.settle()
    loss = ranks.scaled({"loop": output_of(contrast, len(PHRASES[mine]))})["loop"].loss
    loss.backward()
    found = {"loss": loss.detach(), "gradients": [query.grad, key.grad, scale.grad]}
    for fails in (False, True):
        ranks.begin(1, 1)
        if rank and fails:
            ranks.give_up()
        elif rank:
            ranks.settle()
            ranks.scaled({"loop": LoopOutput(torch.zeros(()), {})})
        else:
            alone = ranks.contrast(query[mine], key[mine], PHRASES[mine], scale)
            found[f"fails {fails}"] = ranks.scaled({"loop": output_of(alone, 2)})["loop"].loss.detach()
    ranks.begin(1, 1)
    with pytest.raises(OutOfMemory, match=f"rank {rank} .*in the exchange of regions between ranks"):
        # sizes that only the exchange makes too large: no memory of its own for a row that is repeated
        ranks._gather(torch.zeros(1, 4).expand(1 << 44 if rank else 1, 4))
    ranks.begin(1, 1)
    if rank:  # its memory ends before the exchange
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            ranks.contrast(torch.zeros(1, 1).expand(1, 1 << 47), key[mine], PHRASES[mine], scale)
        ranks.give_up()
    else:
        alone = ranks.contrast(query[mine], key[mine], PHRASES[mine], scale)
        found["no memory"] = ranks.scaled({"loop": output_of(alone, 2)})["loop"].loss.detach()
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_contrast_as_one(tmp_path: Path) -> None:
    assert run_ranks(learn, tmp_path, world=2, output=tmp_path / "output", timeout=60) == [0, 0]
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    query, key, scale = rows()
    same = torch.tensor([[a == b for b in PHRASES] for a in PHRASES])
    loss = 2 * phrase_contrast(query, key, same, scale)
    loss.backward()
    torch.testing.assert_close((found[0]["loss"] + found[1]["loss"]) / 2, loss.detach())
    for number, expected in enumerate((query.grad, key.grad, scale.grad)):
        parts = [each["gradients"][number] for each in found]
        torch.testing.assert_close((parts[0] + parts[1]) / 2, expected)
    rank0 = 2 * phrase_contrast(query[:2], key[:2], same[:2, :2], scale).detach()
    for name in ("fails False", "fails True", "no memory"):
        torch.testing.assert_close(found[0][name] / 2, rank0)


def test_logs_of_all_ranks() -> None:
    first = [("a/loss", 4.0, 1), ("a/ce", 1.0, 3), ("a/small", 2.0, None), ("b/own", 5.0, 1)]
    second = [("a/loss", 2.0, 1), ("a/ce", 5.0, 1), ("a/small", 1.0, None)]
    merged = merge_logs([first, second, []])
    assert merged == pytest.approx({"a/loss": 2.0, "a/ce": 2.0, "a/small": 3.0, "b/own": 5.0})
    assert merge_logs([[("a/ce", 1.0, 0)], []]) == {}
