"""What the folder of a run that wrote a checkpoint says: its configuration, and how today's differs from it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.errors import CheckpointError, ConfigError

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


def checkpoint_file(path: str, runs: str = "runs") -> Path:
    """The file at `path`, or the newest good checkpoint of a run's folder (or of its `checkpoints/`).

    Raises CheckpointError, naming the newest checkpoint near it, when there is none.
    """
    from maskcap.training.checkpoints.reading import newest_good

    found = Path(path)
    if found.is_file():
        return found
    for folder in (found, found / "checkpoints"):
        if (newest := newest_good(folder)) is not None:
            return newest
    place = found
    while not place.is_dir() and place != place.parent:
        place = place.parent
    places = [place] if place not in (Path("."), Path("/")) else []
    for folder in [*places, Path(runs)]:
        near = sorted(folder.rglob("*.ckpt"), key=lambda file: file.stat().st_mtime)
        if near:
            hint = f"the newest one under {folder} is {near[-1]}"
            break
    else:
        hint = f"there is none under {runs} either"
    what = "is a folder without a good checkpoint" if found.is_dir() else "does not exist"
    raise CheckpointError(f"checkpoint={path} {what}: give a .ckpt file or a run's folder; {hint}")


def resume_from(checkpoint: str | None, run: Path, runs: str = "runs") -> Path | None:
    """What a training run in the folder `run` starts from; None: from the start.

    checkpoint: `auto` takes the newest good one of the run's own folder, if it has any; else as `checkpoint_file`.
    Raises CheckpointError; with `auto` when the run has checkpoints and all are damaged. ConfigError for a start from
    the beginning in a folder that has checkpoints, which it would replace.
    """
    from maskcap.training.checkpoints.reading import by_age, newest_good

    folder = run / "checkpoints"
    if checkpoint is None and (old := by_age(folder)):
        raise ConfigError(
            f"{folder} holds {old[0].name} of an earlier run, which this one would replace: checkpoint=auto goes on "
            "with it, another hydra.run.dir begins anew"
        )
    if checkpoint != "auto":
        return None if checkpoint is None else checkpoint_file(checkpoint, runs)
    newest, there = newest_good(folder), by_age(folder)
    if newest is None and there:
        names = ", ".join(path.name for path in there)
        raise CheckpointError(
            f"checkpoint=auto: none of the checkpoints in {folder} is whole ({names}): remove them to start anew"
        )
    log.info("%s", f"from the start: no checkpoint in {folder} yet" if newest is None else f"going on from {newest}")
    return newest


def checkpoint_and_config(path: str, runs: str) -> tuple[Path, DictConfig]:
    """The checkpoint's file and the configuration of its run. Raises CheckpointError where either is missing."""
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


def of_another_run(checkpoint: Path, error: str, today: DictConfig | None) -> str:
    """The message for a checkpoint that torch or Lightning could not load into this run: keys and shapes that differ.

    error: theirs, of which the first lines are kept.
    """
    trained = None if today is None else run_config(checkpoint)
    changed = [] if trained is None or today is None else changed_keys(trained, today)
    keys = f"{', '.join(changed[:_NAMED])} differ from its run's configuration; " if changed else ""
    details = " ".join(error.split())
    cut = f"{details[:400]} …" if len(details) > 400 else details
    return f"{checkpoint} cannot be loaded: it is of another model or optimizer. {keys}{cut}"


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A nested mapping's values by their dotted keys; an empty mapping is a value."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {
        leaf: item
        for key, inner in value.items()
        for leaf, item in leaves(inner, f"{path}.{key}" if path else str(key)).items()
    }
