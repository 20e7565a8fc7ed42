"""The cycle on two ranks (gloo), one of which has words for all of its regions, and then for none: gradients are the
mean of both ranks'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.regions import draw_batch
from maskcap.data.batch import Batch
from maskcap.loops.base import Loop, StepContext, run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.cycle import Cycle
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.presets import tiny_internvl, tiny_sam2


class Step(nn.Module):
    """A training step as a forward, for DistributedDataParallel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)  # of what joins the two models
        vlm = tiny_internvl(
            image_size=32, patch_size=4, downsample_ratio=0.5, hidden_size=32, vit_layers=1, lm_layers=1
        )
        self.model = MaskCaptionModel(vlm, tiny_sam2(image_size=32, hidden_size=64, width=8, mlp_dim=64), True)
        cycle = Cycle(max_new_tokens=4, reference="copy", kl_weight=0.1)
        self.loops: dict[str, Loop] = {"m2c": MaskToCaption(), "c2m": CaptionToMask(), "cycle": cycle}

    def forward(self, batch: Batch, rank: int) -> torch.Tensor:
        """The sum of the loops' losses; rank: whose noise."""
        shared, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(100 + rank)
        context = StepContext(self.model.encode(batch.image1), generator=shared, noise_generator=own)
        outputs = run_loops(self.model, self.loops, batch, context)
        return torch.stack([output.loss for output in outputs.values()]).sum()


def batch_of(rank: int, number: int) -> Batch:
    """Rank 0 has regions of both kinds, rank 1 has words for all in the first step, for none in the second."""
    batch = draw_batch(2, 2, 64, seed=rank)
    if rank and not number:
        return batch
    blank: list[str | None] = [None, None]
    words: list[str | None] = blank + blank if rank else batch.caption[:2] + blank
    return replace(batch, caption=words, phrase=list(words))


def gradients(step: nn.Module) -> dict[str, torch.Tensor]:
    """By the model's own names."""
    named = {name.removeprefix("module."): p for name, p in step.named_parameters()}
    return {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


def run_rank(rank: int, folder: str) -> None:
    """Two steps of one rank; writes the second's gradients and whether there is a copy."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    step = Step()
    parallel: Any = DistributedDataParallel(step, find_unused_parameters=True)
    for number in range(2):
        parallel.zero_grad()
        parallel(batch_of(rank, number), rank).backward()
    torch.save({"gradients": gradients(step), "copy": step.loops["cycle"].state_dict()}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_learn_the_mean_of_theirs(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=run_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    expected: list[dict[str, torch.Tensor]] = []
    for rank in range(2):
        step = Step()
        for number in range(2):
            step.zero_grad()
            step(batch_of(rank, number), rank).backward()
        expected.append(gradients(step))
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert found[0]["copy"]["copy"].keys() == found[1]["copy"]["copy"].keys() != set()
    for name, gradient in found[0]["gradients"].items():
        torch.testing.assert_close(gradient, found[1]["gradients"][name], msg=name)
        parts = [each.get(name, torch.zeros_like(gradient)) for each in expected]
        torch.testing.assert_close(gradient, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-6, msg=name)
