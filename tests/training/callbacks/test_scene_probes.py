from __future__ import annotations

from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from maskcap.data.batch import denormalise
from maskcap.data.record import ImageRef, Record, Region
from maskcap.data.scenes import make_scenes, parse_phrase
from maskcap.data.scenes.draw import RGB
from maskcap.data.sources import RefCOCOSource
from maskcap.errors import DataError
from maskcap.metrics.prediction import Prediction
from maskcap.training.callbacks.scene_probes import SceneProbes, caption_attributes, find_pairs, find_twins


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "demo", train=2, val=6, size=64, workers=0)


def record(*captions: str) -> Record:
    regions = tuple(Region(mask=[[0.0, 0, 1, 0, 1, 1]], captions=(text,), id=str(i)) for i, text in enumerate(captions))
    return Record("tiny/val/0", ImageRef(Path("none.png"), 8, 8), regions)


class ColourReader(torch.nn.Module):
    """Segments everything that has the phrase's colour; reads no other word."""

    def segment(self, image1: torch.Tensor, phrases: list[str], region_image: torch.Tensor) -> torch.Tensor:
        palette = torch.tensor(list(RGB.values())) / 255
        pixels = denormalise(image1)
        nearest = (pixels[:, None] - palette[None, :, :, None, None]).square().sum(2).argmin(1)
        coloured = (pixels.amax(1) - pixels.amin(1)) > 0.3
        wanted = torch.tensor([list(RGB).index(parse_phrase(phrase)["colour"]) for phrase in phrases])
        hit = coloured[region_image] & (nearest[region_image] == wanted[:, None, None])
        return F.interpolate(hit.float()[:, None], scale_factor=0.5, mode="area")[:, 0] - 0.5


class Module(pl.LightningModule):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.predictions = [
            Prediction("k", "0", "main", "tiny", caption="small red cross", predicted_caption="large red cross")
        ]

    def gather_predictions(self) -> list[Prediction]:
        return self.predictions

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        pass


def probes(root: Path, **options) -> SceneProbes:
    pairs, twins = (partial(RefCOCOSource, root, dataset, split="testB") for dataset in ("refcoco+", "refcoco"))
    return SceneProbes(pairs, twins, image_size=64, batch_size=4, **options)


def validate(callback: SceneProbes, module: pl.LightningModule, make_trainer) -> dict[str, float]:
    loader = DataLoader(torch.zeros(1, 1), batch_size=1)  # pyright: ignore[reportArgumentType]
    return dict(make_trainer(callback).validate(module, loader, verbose=False)[0])


def test_a_model_that_reads_colours_only_is_found_out(root: Path, make_trainer):
    values = validate(probes(root), Module(ColourReader()), make_trainer)
    assert values["val/pair_colour"] == 1.0
    assert values["val/pair_size"] == values["val/pair_shape"] == 0.5  # the same mask for both of a pair
    assert values["val/swap_colour"] < 0.05
    assert min(values[f"val/swap_{name}"] for name in ("size", "shape", "place")) > 0.3
    assert (values["val/caption_colour"], values["val/caption_size"], values["val/caption_shape"]) == (1, 0, 1)
    assert "val/caption_place" not in values


def test_the_real_model_is_probed_and_samples_are_decoded_once(root: Path, make_trainer, tiny_model):
    callback, module = probes(root, limit=3), Module(tiny_model)
    first = validate(callback, module, make_trainer)
    kept = callback._samples
    assert kept is not None and len(kept) == 6
    assert validate(callback, module, make_trainer) == first
    assert callback._samples is kept
    assert all(0 <= value <= 1 for value in first.values())
    assert {f"val/swap_{name}" for name in ("colour", "size", "shape", "place")} <= set(first)


def test_captions_of_all_ranks_count(root: Path, make_trainer):
    module = Module(ColourReader())
    module.predictions.append(
        Prediction("k2", "0", "main", "tiny", caption="small blue cross", predicted_caption="small red cross")
    )
    assert validate(probes(root), module, make_trainer)["val/caption_colour"] == 0.5


def test_pairs_are_two_captions_that_differ_in_one_word():
    found = find_pairs(record("small red cross", "large red cross", "large blue circle"))
    assert [(p.attribute, p.region, p.partner, p.phrase, p.swapped) for p in found] == [
        ("size", 0, 1, "small red cross", "large red cross"),
        ("size", 1, 0, "large red cross", "small red cross"),
    ]
    assert not find_pairs(record("small red cross", "large blue cross", "someone in red"))


def test_twins_differ_in_place_alone():
    found = find_twins(
        record("small red cross at the top", "small red cross in the center", "small red circle at the top")
    )
    assert [(p.attribute, p.swapped) for p in found] == [
        ("place", "small red cross in the center"),
        ("place", "small red cross at the top"),
    ]


def test_records_without_a_pair_are_an_error(make_trainer):
    callback = SceneProbes(lambda: [record("a dog", "a cat")], lambda: [], image_size=32)
    with pytest.raises(DataError, match="none of 1 records has two regions that find_pairs"):
        validate(callback, Module(ColourReader()), make_trainer)


def test_caption_attributes_count_what_the_truth_names():
    def said(caption: str | None, predicted: str | None, name: str = "main") -> Prediction:
        return Prediction("k", "0", name, "tiny", caption=caption, predicted_caption=predicted)

    values = caption_attributes(
        [
            said("large red circle at the top left", "large red circle at the top"),
            said("small red circle", "red circle at the left"),
            said("small red circle", "nothing", name="content"),
            said(None, "small red circle"),
            said("small red circle", None),
        ]
    )
    assert values == {"caption_size": 0.5, "caption_colour": 1.0, "caption_shape": 1.0, "caption_place": 0.0}
