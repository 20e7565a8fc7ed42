"""What the folder of a run that wrote a checkpoint says: its configuration, and how today's differs from it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.errors import CheckpointError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

# What shapes the weights and what they are trained on; trainer, callbacks and paths may differ freely.
_LASTING = (
    "seed",
    "model",
    "segmenter",
    "vision_tokens",
    "mask_caption",
    "module",
    "loops",
    "optimizer",
    "scheduler",
    "data",
)
_NAMED = 10


def run_config(checkpoint: Path) -> DictConfig | None:
    """`config.yaml` of the run that wrote the checkpoint, in one of the three folders above it; None without one.

    Raises CheckpointError when the file is not a training run's.
    """
    from omegaconf import DictConfig, OmegaConf

    for folder in list(checkpoint.resolve().parents)[:3]:
        if (folder / "config.yaml").is_file():
            loaded = OmegaConf.load(folder / "config.yaml")
            if isinstance(loaded, DictConfig) and all(key in loaded for key in ("data", "module", "paths")):
                return loaded
            raise CheckpointError(f"{folder / 'config.yaml'} is not the configuration of a training run")
    return None


def checkpoint_and_config(path: str, runs: str) -> tuple[Path, DictConfig]:
    """The checkpoint's file and the configuration of its run. Raises CheckpointError where either is missing."""
    from maskcap.cli.build import checkpoint_file

    checkpoint = checkpoint_file(path, runs)
    trained = run_config(checkpoint)
    if trained is None:
        raise CheckpointError(
            f"{checkpoint} has no config.yaml beside it or in the folder above: keep a checkpoint in its run's folder"
        )
    return checkpoint, trained


def changed_keys(trained: DictConfig, today: DictConfig) -> list[str]:
    """Keys whose values differ, of what shapes a model and its training, unresolved: a value counts where it is set."""
    from omegaconf import OmegaConf

    before, now = (leaves(OmegaConf.to_container(each, resolve=False)) for each in (trained, today))
    keys = [key for key in dict.fromkeys([*before, *now]) if key.partition(".")[0] in _LASTING]
    return [key for key in keys if before.get(key, _ABSENT) != now.get(key, _ABSENT)]


_ABSENT = object()


def warn_of_changes(checkpoint: Path, today: DictConfig) -> None:
    """Log a warning that names what differs from the run of the checkpoint; nothing when its config.yaml is gone."""
    trained = run_config(checkpoint)
    changed = [] if trained is None else changed_keys(trained, today)
    if changed:
        rest = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        log.warning(
            "resuming with another configuration than the run of %s: %s%s differ; repeat that run's overrides "
            "(the first line of its config.yaml) to continue it as it was",
            checkpoint,
            ", ".join(changed[:_NAMED]),
            rest,
        )


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A nested mapping's values by their dotted keys; an empty mapping is a value."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {
        leaf: item
        for key, inner in value.items()
        for leaf, item in leaves(inner, f"{path}.{key}" if path else str(key)).items()
    }
