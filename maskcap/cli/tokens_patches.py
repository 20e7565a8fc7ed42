"""`maskcap tokens image=photo.jpg method=budget alpha=.3`: a picture's adaptive patches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from maskcap.cli.tokens_folder import make_folder, write_json
from maskcap.config import CheckedConfig, Node, Schema
from maskcap.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from maskcap.vision_tokens.settings import Patches

PATCHES_SCHEMA: Schema = {
    "image": str,
    "data": None,
    "method": Literal["budget", "v1", "v2"] | None,
    "alpha": float | None,
    "out": str | None,
    "resize": Node(),
    "trusted_targets": list[str],
    "paths": {"data": str, "runs": str, "run": str},
}
_OF_CROPS = ("vision_tokens", "geometry", "template", "sets", "limit", "samples", "compare", "seed")


def wants_patches(config: DictConfig) -> bool:
    """Whether a composed configuration of `maskcap tokens` asks for patches: by its method, or by vision_tokens."""
    return config.method is not None or _chosen(config)


def refuse_patch_options(config: DictConfig) -> None:
    """Raises ConfigError for options of patches where crops are asked for."""
    if config.alpha is not None:
        raise ConfigError(
            f"alpha={config.alpha} is of patches, and no method is chosen: add method=budget (alpha: the share of the "
            "tokens to spend) or method=v2 (a larger alpha gives fewer tokens)"
        )
    for key, argument in _given():
        if key == "resize":
            raise ConfigError(f"{argument} is of patches, not of crops: leave it out, or add method=budget alpha=.3")


def tokens_of_patches(config: DictConfig) -> None:
    """Write patches.png and patches.json of the configuration's image, and print what they say.

    Raises ConfigError, ImageDecodeError for a picture that cannot be read, DataError for one that is too slender.
    """
    from maskcap.data.picture import read_picture
    from maskcap.reports.patches import patches_figure
    from maskcap.reports.tokens_tables import print_patches
    from maskcap.vision_tokens.patch_report import make_patches, patch_facts, token_curves

    if config.data is not None or config.image is None:
        raise ConfigError("patches are of one picture: image=photo.jpg, and no data=…, whose survey is of crops")
    checked = _check(config)
    settings = _settings(checked)
    path = Path(checked["image"])
    view = make_patches(read_picture(path), settings, checked.build("resize"))
    facts = patch_facts(view)
    folder = Path(checked["out"] or Path(checked["paths"]["run"]) / path.stem)
    make_folder(folder)
    patches_figure(view, token_curves(view), path.name).savefig(folder / "patches.png")
    write_json(folder / "patches.json", {"image": str(path), **facts})
    print_patches(facts, folder)


def _check(config: DictConfig) -> CheckedConfig:
    """Without the options of crops. Raises ConfigError, also where one of them was given."""
    from omegaconf import OmegaConf

    from maskcap.config import check_config

    chosen = _chosen(config)
    for key, argument in _given():
        if key in _OF_CROPS and not (key == "vision_tokens" and chosen):
            asked = "vision_tokens=patches" if config.method is None else f"method={config.method}"
            raise ConfigError(f"{argument} is of crops, {asked} of patches: leave one of them out")
    values: Any = OmegaConf.to_container(config, resolve=False)
    left_out = [key for key in _OF_CROPS if not (key == "vision_tokens" and chosen)]
    values = {key: value for key, value in values.items() if key not in left_out}
    schema = {**PATCHES_SCHEMA, "vision_tokens": Node()} if chosen else PATCHES_SCHEMA
    alone: Any = OmegaConf.create(values)
    return check_config(alone, schema)


def _settings(checked: CheckedConfig) -> Patches:
    """The node's settings, or the defaults, with `method` and `alpha` in their place.

    Raises ConfigError for wrong ones, and for one that is given twice or that the method has no use for.
    """
    from maskcap.vision_tokens.settings import Patches

    arguments = [argument for _, argument in _given()]
    given = {name: checked[name] for name in ("method", "alpha") if checked[name] is not None}
    for name, value in given.items():
        twice = [argument for argument in arguments if argument.startswith(f"vision_tokens.{name}=")]
        if twice:
            raise ConfigError(f"{name}={value} and {twice[0]} say the same thing: give one of them")
    if "vision_tokens" in checked.values:
        node = {key: value for key, value in checked["vision_tokens"].items() if not key.startswith("_")}
        settings = Patches(**{**node, **given})
    else:
        settings = Patches(**{"alpha": None, **given})
    for argument in arguments:
        name, _, value = argument.removeprefix("vision_tokens.").partition("=")
        if settings.method == "v1" and name == "alpha" and value != "null":
            uses = "thresholds (vision_tokens=patches vision_tokens.thresholds=[3,2])"
            raise ConfigError(f"{argument}: method=v1 does not use it, but {uses}")
    return settings


def _chosen(config: DictConfig) -> bool:
    return "method" in config.vision_tokens


def _given() -> list[tuple[str, str]]:
    """Top-level key and whole argument of each override on the command line."""
    from hydra.core.hydra_config import HydraConfig

    arguments = [argument.lstrip("+~") for argument in HydraConfig.get().overrides.task]
    return [(argument.partition("=")[0].partition(".")[0], argument) for argument in arguments]
