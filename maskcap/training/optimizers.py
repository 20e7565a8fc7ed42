"""AdamW with a learning rate for each part, and warm-up + cosine."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from maskcap.errors import ConfigError


@dataclass(frozen=True)
class AdamW:
    """Settings of AdamW (Loshchilov & Hutter 2019); `build` makes the optimizer.

    learning_rates: shell-style pattern of parameter names → its own rate, the first match wins; everything else takes
    `lr`. Vectors and scalars (norms, biases, the region marker) take no weight decay; everything of two and more
    dimensions does, tables of embeddings and positions too. fused: one kernel for all parameters; None uses it on CUDA
    and on a CPU, where torch has it.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    fused: bool | None = None

    def build(self, module: nn.Module) -> torch.optim.AdamW:
        """One parameter group for each rate and decay. Raises ConfigError when nothing trains or a pattern is idle."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        unused = set(self.learning_rates)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            pattern = next((p for p in self.learning_rates if fnmatch.fnmatchcase(name, p)), None)
            unused.discard(pattern or "")
            rate = self.lr if pattern is None else self.learning_rates[pattern]
            decay = self.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        if not groups:
            raise ConfigError(
                "nothing trains: every parameter is frozen; look at model.freeze_patterns and segmenter.freeze_patterns"
            )
        if unused:
            raise ConfigError(
                f"optimizer.learning_rates: no trained parameter matches {sorted(unused)}; names look like "
                f"{[name for name, p in module.named_parameters() if p.requires_grad][:3]}"
            )
        fused = self.fused if self.fused is not None else next(module.parameters()).device.type in ("cuda", "cpu")
        parameter_groups = [
            {"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()
        ]
        optimizer = torch.optim.AdamW(parameter_groups, lr=self.lr, betas=(self.betas[0], self.betas[1]), fused=fused)
        # In mixed precision Lightning clips no gradients of an optimizer that could unscale them itself, as fused ones
        # could. Without that ability a GradScaler unscales them first, and bfloat16 has nothing to unscale.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return optimizer


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up over the first `warmup` share of the steps, then cosine to `final` times the rate."""

    warmup: float = 0.05
    final: float = 0.0

    def factor(self, step: int, total: int) -> float:
        """The rate's factor at `step` of `total`."""
        warm = max(1, round(self.warmup * total))
        if step < warm:
            return (step + 1) / warm
        share = min(1.0, (step - warm) / max(1, total - warm))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * share))

    def build(self, optimizer: torch.optim.Optimizer, total: int) -> torch.optim.lr_scheduler.LambdaLR:
        """A scheduler to step once an optimizer step."""
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step, total))
