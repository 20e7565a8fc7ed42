"""Losses and gradients that are not finite: found on the device once an optimizer step, agreed across ranks, written
down with the samples, and kept away from the weights."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from maskcap.durable import where_there_is_room
from maskcap.errors import ConfigError, NonFiniteError
from maskcap.training.ranks import gather_objects, sum_over_ranks, this_rank, world_size

log = logging.getLogger(__name__)

OnNonFinite: TypeAlias = Literal["skip", "raise"]

_NAMED = 5  # parameters and samples that a message names; the file has all samples


@dataclass(frozen=True)
class _Noted:
    """A batch of the step: its samples, its loss and the loss's parts as scalars on the device."""

    keys: tuple[str, ...]
    loss: torch.Tensor
    parts: Mapping[str, torch.Tensor]


class NonFiniteGuard:
    """The policy, and what it must remember: the batches of the current step, the bad steps so far.

    policy: "skip" leaves weights and optimizer as they are, "raise" ends the run. most: so many bad steps in a row end
    it under "skip" too. Raises ConfigError for fewer than one.
    """

    def __init__(self, policy: OnNonFinite = "skip", most: int = 10) -> None:
        if most < 1:
            raise ConfigError(f"module.max_nonfinite={most}: at least 1; to stop at once, module.on_nonfinite=raise")
        self.policy = policy
        self.most = most
        self.in_a_row = 0
        self.total = 0  # bad steps of this process
        self._noted: list[_Noted] = []

    def note(self, keys: Sequence[str], loss: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> None:
        """A batch of this step, of this rank; loss and parts: detached scalars. Waits for nothing."""
        self._noted.append(_Noted(tuple(keys), loss, parts))

    def keeps(
        self, norm: torch.Tensor | None, parameters: Mapping[str, nn.Parameter], *, step: int, file: Path | None
    ) -> bool:
        """Whether this step's gradients may be used; every rank must call it, and gets the same answer.

        norm: of all gradients (see `gradient_norm`); None: a scaler looks after them, and only losses count.
        file: where a bad step is written down, by rank 0. Waits for the device once, and exchanges two numbers.
        Raises NonFiniteError, on every rank, when the policy says so.
        """
        noted, self._noted = self._noted, []
        losses = [each.loss.detach().float().reshape(()) for each in noted]
        if norm is None and not losses:
            return True
        device = norm.device if norm is not None else losses[0].device
        bad_loss = ~torch.isfinite(torch.stack(losses)).all() if losses else torch.zeros((), device=device)
        bad_gradient = torch.zeros((), device=device) if norm is None else ~torch.isfinite(norm)
        flags = torch.stack([bad_loss.to(device).float(), bad_gradient.float()])
        any_loss, any_gradient = sum_over_ranks(flags).tolist()
        if not any_loss and not any_gradient:
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.total += 1
        self._report(noted, parameters, bool(any_loss), step, file)
        return False

    def _report(
        self, noted: list[_Noted], parameters: Mapping[str, nn.Parameter], loss: bool, step: int, file: Path | None
    ) -> None:
        """Write and log; every rank calls it. Raises NonFiniteError by the policy."""
        lines = [line for lines in gather_objects(_lines(noted, parameters, step)) for line in lines]
        ends = self.policy == "raise" or self.in_a_row >= self.most
        if this_rank() == 0 and file is not None:
            text = "".join(json.dumps(line | {"skipped": not ends}, allow_nan=False) + "\n" for line in lines)
            with where_there_is_room(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("a", encoding="utf-8") as out:
                    out.write(text)
        message = _message(lines, loss, step)
        where = f"; {file} lists the samples" if file is not None else ""
        if not ends:
            log.warning(
                "%s: the step is skipped, weights and optimizer stay as they were (%d in a row of at most %d, %d in "
                "all)%s",
                message, self.in_a_row, self.most, self.total, where,
            )  # fmt: skip
            return
        why = f" {self.in_a_row} steps in a row (module.max_nonfinite={self.most})" if self.policy == "skip" else ""
        raise NonFiniteError(
            f"{message}{why}{where}; the weights are those of the last good step. Try a lower optimizer.lr, "
            "trainer.gradient_clip_val, trainer.precision=32-true, or leave the samples out; module.on_nonfinite=skip "
            "with a higher module.max_nonfinite trains on"
        )


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor | None:
    """The 2-norm of all gradients together, float scalar on the device, whole where they are sharded; None: there are
    none. Waits for nothing."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return None
    norm: Any = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _lines(noted: list[_Noted], parameters: Mapping[str, nn.Parameter], step: int) -> list[dict[str, Any]]:
    """For each of this rank's batches what the file says; numbers that are not finite as text."""
    gradients = [name for name, p in parameters.items() if p.grad is not None and not _finite(p.grad)]
    return [
        {
            "step": step,
            "rank": this_rank(),
            "world": world_size(),
            "keys": list(each.keys),
            "loss": _number(each.loss),
            "parts": {name: _number(value) for name, value in each.parts.items()},
            "gradients": gradients[:_NAMED],
            "gradient_count": len(gradients),
        }
        for each in noted
    ]


def _finite(gradient: torch.Tensor) -> bool:
    own: Any = gradient
    return bool(torch.isfinite(own.to_local() if hasattr(own, "to_local") else own).all())


def _number(value: torch.Tensor) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _message(lines: list[dict[str, Any]], loss: bool, step: int) -> str:
    if not loss:
        names = sorted({name for line in lines for name in line["gradients"]})
        return f"step {step}: gradients are not finite, though every loss is ({', '.join(names[:_NAMED])})"
    bad = [line for line in lines if isinstance(line["loss"], str)]
    ranks = ", ".join(str(rank) for rank in sorted({line["rank"] for line in bad}))
    keys = [key for line in bad for key in line["keys"]]
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    parts = sorted({name for line in bad for name, value in line["parts"].items() if isinstance(value, str)})
    of = f" ({', '.join(parts)})" if parts else ""
    return f"step {step}: the loss{of} of rank {ranks} is not finite on {', '.join(keys[:_NAMED])}{more}"
