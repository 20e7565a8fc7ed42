"""Does one batch overfit, with every number finite?"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from maskcap.doctor.findings import Finding, Patient
from maskcap.loops.base import run_loops
from maskcap.loops.cycle import Cycle

_LAST = 5  # steps whose mean is the loss at the end
_CLIP = 1.0


def check_learning(patient: Patient) -> Finding:
    """Trains on the one batch with the run's optimizer at a constant rate; the weights are other ones afterwards.

    All loops take part in the first step; then the cycle is left out where there are others: what it learns from is
    drawn anew at each step, so its loss says little in a few of them.
    """
    module, batch = patient.need("module"), patient.need("batch")
    every = module.active_loops
    taught = {name: loop for name, loop in every.items() if not isinstance(loop, Cycle)} or every
    optimizer = module.optimizer_settings.build(module.model)
    rate = _raise_rates(optimizer, patient.lr)
    parameters = [weight for weight in module.parameters() if weight.requires_grad]
    losses: dict[str, list[float]] = {name: [] for name in taught}
    began = time.monotonic()
    for step in range(patient.steps):
        loops = every if step == 0 else taught
        optimizer.zero_grad(set_to_none=True)
        with patient.precision():
            outputs = run_loops(module.model, loops, batch, patient.context(batch))
            total = torch.stack([loops[name].weight * output.loss for name, output in outputs.items()]).sum()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
        for name in taught:
            losses[name].append(float(outputs[name].loss.detach()))
        value = float(total.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            said = f"step {step}: loss {value}, gradient norm {float(norm)}"
            fix = f"trainer.precision is {patient.need('trainer').precision}: try 32-true; a lower optimizer.lr; "
            return Finding(False, said, f"{fix}the batch is {batch.keys}", {"losses": losses})
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    seconds = time.monotonic() - began
    idle = [name for name, values in losses.items() if not any(values)]  # this batch has nothing for them
    losses = {name: values for name, values in losses.items() if name not in idle}
    falls = {name: _fall(values) for name, values in losses.items()}
    facts: dict[str, Any] = {"losses": losses, "factors": falls, "seconds": round(seconds, 1), "lr": rate, "idle": idle}
    listed = ", ".join(f"{name} {values[0]:.3f} → {_end(values):.3f}" for name, values in losses.items())
    said = f"{patient.steps} steps in {seconds:.0f} s: {listed}; all finite"
    said += f"; nothing in this batch for {', '.join(idle)}" if idle else ""
    slow = [name for name, factor in falls.items() if factor < patient.factor]
    if slow:
        fix = f"{', '.join(slow)} should fall by a factor of {patient.factor:g}: more steps=…, or a higher lr=…"
        fix += f" (it was {rate:g})"
        return Finding(False, said, fix, facts)
    return Finding(True, said, facts=facts)


def _raise_rates(optimizer: torch.optim.Optimizer, least: float) -> float:
    """All rates times one number, so that the highest is at least `least`; returns the highest."""
    highest = max(group["lr"] for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        group["lr"] *= max(1.0, least / highest)
    return max(highest, least)


def _fall(values: list[float]) -> float:
    return values[0] / max(_end(values), 1e-9)


def _end(values: list[float]) -> float:
    last = values[-_LAST:]
    return sum(last) / len(last)
