"""`maskcap tokens`: the crops or patches of a picture, or the crops of a data set's images, and what they cost."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from maskcap.cli.data_alone import SETS, data_alone
from maskcap.cli.launch import launch
from maskcap.cli.tokens_folder import make_folder, write_json
from maskcap.cli.tokens_patches import refuse_patch_options, tokens_of_patches, wants_patches
from maskcap.config import CheckedConfig, Node, Schema
from maskcap.errors import ConfigError, DataError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from maskcap.vision_tokens.rule import TilingRule
    from maskcap.vision_tokens.survey import Gathered

log = logging.getLogger(__name__)

_LINE_EVERY = 10.0  # seconds between lines of progress where there is no terminal

TOKENS_SCHEMA: Schema = {
    "image": str | None,
    "method": None,
    "alpha": None,
    "out": str | None,
    "sets": list[str],
    "limit": int | None,
    "samples": int,
    "compare": list[int],
    "seed": int,
    "trusted_targets": list[str],
    "paths": {"data": str, "runs": str, "run": str},
    "vision_tokens": Node(),
    "geometry": Node(),
    "resize": Node(),
    "template": Literal["internvl", "molmo"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to sys.argv[1:]."""
    launch(run, "tokens", arguments)


def run(config: DictConfig) -> None:
    """Write what a composed configuration asks for: of `image`, or of `data`.

    Raises ConfigError, ImageDecodeError for a picture that cannot be read, DataError for sources that cannot be opened.
    """
    if wants_patches(config):
        tokens_of_patches(config)
    else:
        _crops(config)


def _crops(config: DictConfig) -> None:
    from maskcap.config import check_config

    refuse_patch_options(config)
    if (config.image is None) == (config.data is None):
        raise ConfigError("give a picture, image=photo.jpg, or a data set, data=refcoco data.root=… (one of the two)")
    if "margins" not in config.vision_tokens:
        raise ConfigError("vision_tokens: a single view has no crops; vision_tokens=tiling has")
    if config.data is None:
        checked = check_config(config, {**TOKENS_SCHEMA, "data": None})
    else:
        checked = check_config(data_alone(config), {**TOKENS_SCHEMA, "data": Node()})
    _check_options(checked)
    settings = checked.build("vision_tokens")
    if settings.target_latency_ms is not None or settings.latency_table is not None or settings.min_scale:
        raise ConfigError(
            "vision_tokens.target_latency_ms, latency_table and min_scale are of a model at work, and not shown here: "
            "set max_crops to what the table allows (`maskcap tokens profile`)"
        )
    rule = settings.rule(checked.build("geometry"))
    if checked["image"] is not None:
        _tokens_of_image(Path(checked["image"]), rule, settings.global_view, checked)
    else:
        _tokens_of_data(rule, settings.global_view, checked)


def _check_options(checked: CheckedConfig) -> None:
    for name, least in (("limit", 1), ("samples", 1), ("seed", 0)):
        if checked[name] is not None and checked[name] < least:
            raise ConfigError(f"{name}={checked[name]}: needs at least {least}")
    if not checked["compare"] or min(checked["compare"]) < 1:
        raise ConfigError(f"compare={checked['compare']}: needs numbers of crops, each at least 1")
    for name in checked["sets"]:
        if name not in SETS:
            raise ConfigError(f"sets: there is no set {name!r}; sets are {', '.join(SETS)}")


def _tokens_of_image(path: Path, rule: TilingRule, global_view: bool, checked: CheckedConfig) -> None:
    from PIL import Image

    from maskcap.data.picture import read_picture
    from maskcap.reports.crops import crops_figure
    from maskcap.reports.tokens_tables import print_image
    from maskcap.vision_tokens.views import every_tiling, make_views, views_facts

    views = make_views(read_picture(path), rule, global_view)
    facts = views_facts(views, checked["template"])
    folder = Path(checked["out"] or Path(checked["paths"]["run"]) / path.stem)
    make_folder(folder)
    (folder / "crops").mkdir(exist_ok=True)
    for name, pixels in zip([crop["file"] for crop in facts["crops"]], views.crops, strict=True):
        Image.fromarray(pixels).save(folder / name)
    if views.global_view is not None:
        Image.fromarray(views.global_view).save(folder / facts["global_view"])
    crops_figure(views, path.name, checked["template"]).savefig(folder / "crops.png")
    most = max(rule.max_crops, math.prod(views.tiling))
    tilings = every_tiling(most, rule.geometry, checked["template"], global_view)
    write_json(folder / "overlap.json", {"image": str(path), **_rule_facts(rule, checked), **facts, "tilings": tilings})
    print_image(facts, rule, folder)


def _tokens_of_data(rule: TilingRule, global_view: bool, checked: CheckedConfig) -> None:
    from maskcap.reports.tilings import samples_figure, tilings_figure
    from maskcap.reports.tokens_tables import print_data
    from maskcap.vision_tokens.survey import survey
    from maskcap.vision_tokens.views import every_tiling

    data = checked.build("data")
    data.prepare_data()
    gathered = _gather(data, rule, checked)
    found = survey(gathered, rule, checked["compare"], global_view)
    folder = Path(checked["out"] or checked["paths"]["run"])
    make_folder(folder)
    tilings_figure(found).savefig(folder / "tilings.png")
    samples_figure(gathered.evenly(), checked["samples"], rule, global_view).savefig(folder / "samples.png")
    most = max(rule.max_crops, *map(math.prod, found.tilings))
    tilings = every_tiling(most, rule.geometry, checked["template"], global_view)
    write_json(folder / "overlap.json", {**_rule_facts(rule, checked), **found.to_json(), "tilings": tilings})
    print_data(found, folder)


def _gather(data: Any, rule: TilingRule, checked: CheckedConfig) -> Gathered:
    """Sizes of every record's images. Raises ConfigError without a source, DataError where no record can be read."""
    import numpy as np

    from maskcap.data.progress import Progress
    from maskcap.vision_tokens.survey import Gathered

    sets, limit = checked["sets"], checked["limit"]
    sources = {f"{part}/{name}": each for part in dict.fromkeys(sets) for name, each in data.sources(part).items()}
    if not sources:
        raise ConfigError(f"sets={sets}: the data has no source in them")
    gathered = Gathered(rule.choose, checked["samples"], np.random.default_rng(checked["seed"]))
    counts = {name: min(len(source), limit or len(source)) for name, source in sources.items()}
    with Progress("records", sum(counts.values()), every=_LINE_EVERY) as progress:
        for name, source in sources.items():
            for index in range(counts[name]):
                gathered.add(source, index)
                progress.advance(f"{gathered.images} images", part=name)
    if not gathered.sizes:
        raise DataError(f"none of {gathered.records} records can be read; `maskcap check` says why")
    if gathered.bad:
        log.warning("%d of %d records are bad; `maskcap check` names them", gathered.bad, gathered.records)
    return gathered


def _rule_facts(rule: TilingRule, checked: CheckedConfig) -> dict[str, Any]:
    names = ("max_crops", "exact_crops", "vision_tokens", "image_sizes", "global_view")
    geometry = asdict(rule.geometry) | {"window": rule.geometry.window, "crop_tokens": rule.geometry.crop_tokens}
    return {
        "geometry": geometry,
        "template": checked["template"],
        "vision_tokens": {name: checked["vision_tokens"].get(name) for name in names},
    }
