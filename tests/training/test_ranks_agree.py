"""Two ranks learn what one learns of the same global batches: whole short runs of train.py, their losses compared."""

from __future__ import annotations

import csv
import json
import zlib
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from tests.processes import ddp_on_cpu, run_ranks, tiny_run, train

SAVED_AT = 4  # steps: inside an epoch
UNEQUAL = ["+callbacks.words._target_=tests.training.test_ranks_agree.LeaveWordsOut", "trusted_targets=[tests]"]
UNEQUAL += ["data.samples_per_epoch=11", "data.regions_per_image=3", "module.curriculum.segmenter_from=0.2"]
VALIDATED = ["data.limit_val=2", "trainer.limit_val_batches=null"]


class LeaveWordsOut(pl.Callback):
    """Takes the words of some regions away, by the sample alone, so that it is the same on any number of ranks; prints
    how many phrases are left of each batch, and saves a checkpoint in the middle."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch's lists are changed in place."""
        for region, name in enumerate(batch.names_of(range(len(batch.region_ids)))):
            draw = zlib.crc32(name.encode()) % 7
            batch.phrase[region] = None if draw < 3 else batch.phrase[region]
            batch.caption[region] = None if draw in (2, 4) else batch.caption[region]
        left = 0 if batch.all_padding else sum(phrase is not None for phrase in batch.phrase)
        print("phrases", left, "padding" if batch.all_padding else "")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """`<run>/middle.ckpt`."""
        if trainer.global_step == SAVED_AT:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "middle.ckpt")


def losses_of(run: Path) -> dict[int, dict[str, float]]:
    """What a run logged of its training steps, by step and name without `train/`."""
    (path,) = run.rglob("metrics.csv")
    steps: dict[int, dict[str, float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            found = {name: float(value) for name, value in row.items() if name.startswith("train/") and value}
            steps.setdefault(int(row["step"]), {}).update({name.removeprefix("train/"): v for name, v in found.items()})
    return steps


def finished(run: Path, world: int, *overrides: str) -> Path:
    """The folder of a finished run of so many ranks, of 2 images a step in all, on the folder's common scenes."""
    several = ddp_on_cpu() if world > 1 else []
    arguments = tiny_run(run.parent / "data", *several, f"hydra.run.dir={run}", *UNEQUAL, *overrides)
    output = run.with_name(f"{run.name}_output")
    codes = run_ranks(train, *arguments, world=world, output=output)
    assert codes == [0] * world, "\n".join(file.read_text() for file in output.iterdir())
    return run


def printed(run: Path, rank: int) -> list[str]:
    """What a rank's LeaveWordsOut printed of each batch."""
    lines = (run.with_name(f"{run.name}_output") / f"rank{rank}.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.startswith("phrases")]


def scores_of(run: Path) -> dict[str, float]:
    """The last validation's metrics that can be compared between runs."""
    scores = json.loads((run / "metrics.json").read_text())
    return {name: value for name, value in scores.items() if name.startswith("val/")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one rank."""
    return finished(tmp_path_factory.mktemp("ranks") / "alone", 1, *VALIDATED)


@pytest.fixture(scope="module")
def ddp(alone: Path) -> Path:
    """The run of two."""
    return finished(alone.with_name("ddp"), 2)


@pytest.fixture(scope="module")
def fsdp(alone: Path) -> Path:
    """The run of two that share the weights out."""
    return finished(alone.with_name("fsdp"), 2, "trainer=fsdp", *VALIDATED)


def differing(run: Path, alone: Path, first: int = 0) -> list[int]:
    """Steps from `first` on of which a logged loss is not one rank's; all of them must be there."""
    expected, found = losses_of(alone), losses_of(run)
    assert list(found) == list(range(first, 12)) == list(expected)[first:]
    return [step for step, losses in found.items() if losses != pytest.approx(expected[step], rel=1e-5)]


def test_ddp_is_one_rank(alone: Path, ddp: Path) -> None:
    """Ranks with different numbers of regions and tokens, a rank without any phrase, and one with padding alone."""
    assert differing(ddp, alone) == []
    logged = set().union(*losses_of(ddp).values())
    parts = ("answer", "grounding", "contrast", "mask_ce", "mask_dice", "loss")
    assert {"loss", "mask_to_caption/loss", *(f"caption_to_mask/{part}" for part in parts)} <= logged
    counts = list(zip(printed(ddp, 0), printed(ddp, 1), strict=True))
    assert any("padding" in second for _, second in counts)
    assert any((first == "phrases 0") != (second == "phrases 0") for first, second in counts)
    assert any(first != second and "phrases 0" not in (first, second) for first, second in counts)


def test_fsdp_is_one_rank(alone: Path, fsdp: Path) -> None:
    """Its validation, which generates captions of different lengths, too."""
    assert differing(fsdp, alone) == []
    assert scores_of(fsdp) == pytest.approx(scores_of(alone), rel=1e-4)


def test_a_checkpoint_goes_from_ddp_to_fsdp_and_from_fsdp_to_one_rank(alone: Path, ddp: Path, fsdp: Path) -> None:
    sharded = finished(alone.with_name("sharded"), 2, "trainer=fsdp", f"checkpoint={ddp / 'middle.ckpt'}")
    assert differing(sharded, alone, SAVED_AT) == []
    one = finished(alone.with_name("one"), 1, f"checkpoint={fsdp / 'middle.ckpt'}")
    assert differing(one, alone, SAVED_AT) == []
