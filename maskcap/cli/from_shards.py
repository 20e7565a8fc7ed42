"""`data.shards=…`: tar shards in place of a configuration's own training (and validation) sources."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from maskcap.config import interpolated

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

SOURCE = "maskcap.data.shards.source.ShardSource"
VAL_FRACTION = 0.02
_OF_PARTS = ("val_fraction", "split", "val_split")  # in conf/data/shards.yaml, for this module and debug=overfit alone


def use_shards(config: DictConfig, *, training: bool = True) -> None:
    """Replace `config.data`'s sources by its `shards` and `val_shards`, in place; without them nothing changes.

    shards: every training source becomes one, `main`, that reads them. val_shards: likewise for validation. Without
    val_shards, validation stays as it is where the data has a split of its own and its files are known (`data.root` is
    given). It is otherwise the last `data.val_fraction` of the shards' images (or the training images, where
    `val_split` is the training split): who holds a part of the files out cannot know what is in the shards. The log
    says what reads what. Both keys are removed, and so are keys of `data` that only the replaced sources read
    (`data.root`, `data.split` …).
    training: whether the training sources are needed; without it, val_shards leave no other source.
    """
    data = config.data
    shards, val_shards = (_take(data, name) for name in ("shards", "val_shards"))
    if shards is None and val_shards is None:
        return
    before = interpolated(_raw(config))
    fraction = data.val_fraction if "val_fraction" in data else VAL_FRACTION
    replaced = [str(name) for name in data.train]
    if val_shards is not None:
        _set(data, "val", {"main": {"source": _source(val_shards)}})
    if val_shards is not None and not training:
        _drop(data, "shards")  # data=shards demands it, for training
        _set(data, "train", {})
    elif shards is not None:
        held_out = val_shards is None and (data.get("root") is None or "val_fraction" in data)
        _set(data, "train", {"main": {"source": _part(shards, "train", fraction) if held_out else _source(shards)}})
        if held_out:
            same = data.get("val_split") is not None and data.val_split == data.get("split")  # debug=overfit
            _set(data, "val", {"main": {"source": _part(shards, "train" if same else "val", fraction)}})
        validation = (
            f"the last {fraction:.0%} of them" if held_out else "as configured" if val_shards is None else val_shards
        )
        log.info("training reads %s in place of %s; validation: %s", shards, replaced or "nothing", validation)
        if len(replaced) > 1:
            log.warning("data.shards=%s replaces a mixture of %s: only the shards train", shards, replaced)
    _forget_unread(config, before)


def _take(data: DictConfig, name: str) -> Any:
    """Remove a key; its value, or None. A mandatory one that was not given stays, for the check to name."""
    from omegaconf import OmegaConf, open_dict

    if name not in data or OmegaConf.is_missing(data, name):
        return None
    with open_dict(data):
        return data.pop(name)


def _drop(data: DictConfig, name: str) -> None:
    from omegaconf import open_dict

    if name in set(map(str, data)):
        with open_dict(data):
            del data[name]


def _set(data: DictConfig, name: str, sources: dict[str, Any]) -> None:
    from omegaconf import OmegaConf, open_dict

    with open_dict(data):
        data[name] = OmegaConf.create(sources)


def _source(shards: Any) -> dict[str, Any]:
    return {"_target_": SOURCE, "_partial_": True, "shards": shards}


def _part(shards: Any, part: str, fraction: float) -> dict[str, Any]:
    return {
        "_target_": "maskcap.data.split.split_part",
        "_partial_": True,
        "part": part,
        "fraction": fraction,
        "source": _source(shards),
    }


def _forget_unread(config: DictConfig, before: set[str]) -> None:
    """Remove the keys of `data` that something read before, and nothing reads now; arguments of the target stay."""
    from maskcap.signatures import locate, signature

    target = locate(config.data["_target_"], "data", config.get("trusted_targets") or [])
    arguments = signature(target).arguments
    variables = {name for name in map(str, config.data) if f"data.{name}" in before or name in _OF_PARTS}
    while True:
        read = interpolated(_raw(config))
        there = variables & set(map(str, config.data))  # `in` denies keys whose value is missing
        unread = [name for name in there - set(arguments) if f"data.{name}" not in read]
        if not unread:
            return
        for name in unread:
            _drop(config.data, name)


def _raw(config: DictConfig) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=False)
