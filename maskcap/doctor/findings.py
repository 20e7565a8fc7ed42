"""What a check is given, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    import lightning

    from maskcap.config import CheckedConfig
    from maskcap.data.batch import Batch
    from maskcap.loops.base import StepContext
    from maskcap.training.module import MaskCaptionModule


@dataclass(frozen=True)
class Finding:
    """ok: None where there was nothing to look at. said: what was seen. fix: what to do, of a finding that is not ok.
    facts: numbers and names for the JSON file."""

    ok: bool | None
    said: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


class NotReachedError(Exception):
    """A check cannot be made, because of an earlier one; the text says of which."""


@dataclass
class Patient:
    """What is examined; filled while the checks go on, each needing what those before it made.

    config: checked, on one device. folder: of this command, where a checkpoint is tried. images: of the batch, at most.
    steps, factor: of the overfit, lr: its highest rate at least. allow_random: whether a
    folder's weights may be untrained.
    """

    config: CheckedConfig
    folder: Path
    images: int = 2
    steps: int = 60
    factor: float = 1.5
    lr: float = 1e-3
    allow_random: bool = False
    trainer: lightning.Trainer | None = None
    data: Any = None
    module: MaskCaptionModule | None = None
    batch: Batch | None = None

    def need(self, name: str) -> Any:
        """The trainer, data, module or batch. Raises NotReachedError when the check that makes it failed."""
        found = getattr(self, name)
        if found is None:
            raise NotReachedError(f"there is no {name}: see above")
        return found

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.need("trainer").strategy.root_device

    @contextmanager
    def precision(self) -> Iterator[None]:
        """What `trainer.precision` does to a forward."""
        with self.need("trainer").precision_plugin.forward_context():
            yield

    def context(self, batch: Batch) -> StepContext:
        """A step at the end of the run's curriculum: all parts take part, the image's tokens are in every prompt."""
        from dataclasses import replace

        from maskcap.loops.base import Curriculum

        return replace(self.need("module").step_context(batch), progress=1.0, curriculum=Curriculum())


Check: TypeAlias = Callable[[Patient], Finding]


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """In evaluation mode, without gradient, for a while."""
    before = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(before)
