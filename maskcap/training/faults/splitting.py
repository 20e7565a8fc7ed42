"""A training step that is made in parts where it does not fit the memory, with the losses of the whole batch.

The step makes its own backward, without any exchange between ranks: a rank that runs out of memory in the middle could
not take part in it. Then the ranks agree. If one of them failed, every rank makes its step anew: without gradient, for
the numbers that each loss is a mean over; then with it, part by part. Gradients are averaged over ranks at the end.
A phrase is then contrasted with the regions of its own part and rank alone, and random numbers may differ.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import torch
from torch import nn

from maskcap.data.batch import Batch
from maskcap.errors import OutOfMemory
from maskcap.loops.outputs import OVER, LoopOutput, Over, weighed
from maskcap.training.faults.gradients import Gradients, add_gradients, average_gradients, take_gradients
from maskcap.training.faults.memory import describe, is_out_of_memory, peak_memory
from maskcap.training.ranks import any_rank, gather_objects, sum_over_ranks, this_rank, world_size
from maskcap.training.step_logs import log_step, write_entries
from maskcap.training.used_images import halves

if TYPE_CHECKING:
    from maskcap.training.module import MaskCaptionModule

log = logging.getLogger(__name__)

T = TypeVar("T")
Shares: TypeAlias = Mapping[str, Mapping[Over, float]]  # by loop: ranks / what all ranks have of each kind


def split_step(module: MaskCaptionModule, batch: Batch, *, first: bool) -> tuple[torch.Tensor, Gradients]:
    """Forward and backward of a batch; returns the loss, detached, and the gradients of the module's trained
    parameters, averaged over ranks, in their order. Every rank must call it.

    first: earlier gradients are not needed. Raises OutOfMemory, on every rank, for a region that does not fit alone.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    earlier: Gradients = take_gradients(parameters)
    if first:
        earlier = [None] * len(parameters)
    done = _whole(module, batch)
    if any_rank(done is None, module.device):
        take_gradients(parameters)
        fits, done = done is not None, None
        total, outputs = _in_parts(module, batch, parameters, fits=fits), {}
        if module.entry_losses is not None:
            write_entries(module.trainer, module.entry_losses)
        module.log("train/loss", sum_over_ranks(total) / world_size(), batch_size=len(batch.keys))
    else:
        assert done is not None
        total, outputs = done
        log_step(module, outputs, total, len(batch.keys), batch.all_padding, module.entry_losses)
    average_gradients(parameters)
    module.note_batch(batch.keys, total, outputs)
    gradients = take_gradients(parameters)
    add_gradients(parameters, earlier)
    return total, gradients


def _whole(module: MaskCaptionModule, batch: Batch) -> tuple[torch.Tensor, Mapping[str, LoopOutput]] | None:
    """The ordinary step; None: it does not fit. Other ranks are not kept waiting."""
    context = module.step_context(batch)
    try:
        total, outputs = module.step_losses(batch, context)
        _backward(module, total)
        return total.detach(), _detached(outputs)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    if context.ranks is not None:
        context.ranks.give_up()
    return None


def _in_parts(module: MaskCaptionModule, batch: Batch, parameters: list[nn.Parameter], *, fits: bool) -> torch.Tensor:
    """The step anew, in parts; `fits`: this rank had memory enough for the whole. Every rank calls it."""
    _free()
    parts = [batch] if fits else halves(batch) or [batch]
    names = list(module.active_loops)

    def counts() -> torch.Tensor:
        """Over how many of each kind the whole batch's losses are means, float64 (loops, kinds)."""
        table = torch.zeros(len(names), len(OVER), dtype=torch.float64)
        for outputs in _each_part(module, parts, parameters, None, len(batch.keys)):
            table += torch.tensor([[outputs[name].counts.get(kind, 0) for kind in OVER] for name in names])
        return table * (not batch.all_padding)

    whole = sum_over_ranks(_agreed(counts).to(module.device, torch.float32)).clamp_min(1)
    shares = {
        name: dict(zip(OVER, row, strict=True))
        for name, row in zip(names, (world_size() / whole).tolist(), strict=True)
    }

    def losses() -> torch.Tensor | int:
        """Of all parts, each with its backward."""
        total: torch.Tensor | int = 0
        for outputs in _each_part(module, parts, parameters, shares, len(batch.keys)):
            total = total + _losses(module, outputs)
            if module.entry_losses is not None and not batch.all_padding:
                module.entry_losses.add(outputs)
        return total

    total = _agreed(losses)
    said = gather_objects((len(parts), None if fits else f"rank {this_rank()}, {describe(batch)}"))
    where, made = "; ".join(text for _, text in said if text), ", ".join(str(count) for count, _ in said)
    if this_rank() == 0:
        log.warning(
            "step %d: out of memory on %s; made again in %s parts on the ranks", module.global_step, where, made
        )
    return torch.as_tensor(total, device=module.device)


def _agreed(run: Callable[[], T]) -> T:
    """What `run` gives; every rank calls it. Raises OutOfMemory on every rank where it does so on one."""
    result, failed = None, None
    try:
        result = run()
    except OutOfMemory as error:
        failed = str(error)
    if said := [text for text in gather_objects(failed) if text]:
        raise OutOfMemory("; ".join(said))
    return result  # type: ignore[return-value]


def _each_part(
    module: MaskCaptionModule,
    parts: list[Batch],
    parameters: list[nn.Parameter],
    shares: Shares | None,
    images: int,
) -> Iterator[Mapping[str, LoopOutput]]:
    """Each part's outputs, without graph; with shares after its backward. `parts` grows where one does not fit."""
    number = 0
    while number < len(parts):
        earlier = take_gradients(parameters)  # a backward that fails half-way must not spoil them
        outputs = _part(module, parts[number], shares, len(parts[number].keys) / images)
        if outputs is None:
            take_gradients(parameters)
        add_gradients(parameters, earlier)
        if outputs is not None:
            yield outputs
            number += 1
            continue
        _free()
        smaller = halves(parts[number])
        if not smaller:
            raise OutOfMemory(
                f"out of memory on rank {this_rank()} ({peak_memory()}) even alone, {describe(parts[number])}: leave "
                "the sample out, lower data.image_size, or set mask_caption.activation_checkpointing"
            )
        parts[number : number + 1] = smaller


def _part(
    module: MaskCaptionModule, part: Batch, shares: Shares | None, images: float
) -> Mapping[str, LoopOutput] | None:
    """One part's outputs, detached; None: it does not fit. images: its share of the batch's."""
    try:
        with torch.set_grad_enabled(shares is not None):
            context = replace(module.step_context(part), ranks=None)
            _, outputs = module.step_losses(part, context)
            if shares is not None:
                outputs = {name: _scaled(each, shares[name], images) for name, each in outputs.items()}
                _backward(module, _losses(module, outputs) * (not part.all_padding))
        return _detached(outputs)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return None


def _scaled(output: LoopOutput, share: Mapping[Over, float], images: float) -> LoopOutput:
    """With this part's share in the loss of the global batch × ranks; a loss without counts goes by its images."""
    if not (output.counts and output.parts):
        return replace(output, loss=output.loss * images)
    counts, over = output.counts, output.over
    parts = [(w, value * (counts.get(over[name], 0) * share[over[name]])) for name, (w, value) in output.parts.items()]
    return replace(output, loss=weighed(parts))


def _losses(module: MaskCaptionModule, outputs: Mapping[str, LoopOutput]) -> torch.Tensor:
    return torch.stack([module.loops[name].weight * output.loss for name, output in outputs.items()]).sum()


def _detached(outputs: Mapping[str, LoopOutput]) -> dict[str, LoopOutput]:
    """Without their graphs, which hold a step's memory."""
    return {name: replace(each, loss=each.loss.detach(), parts={}) for name, each in outputs.items()}


def _backward(module: MaskCaptionModule, total: torch.Tensor) -> None:
    """As Lightning makes it, outside of the forward's autocast."""
    trainer = module.trainer
    total = total / trainer.accumulate_grad_batches
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    with torch.autocast(module.device.type, enabled=False):
        (total if scaler is None else scaler.scale(total)).backward()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
