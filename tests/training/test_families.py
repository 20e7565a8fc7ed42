"""Every family of data sets in one run: each source's own loss falls, and ranks with different families agree."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.families import further, write_families
from tests.processes import ddp_on_cpu, run_ranks, train

ENTRIES = (
    "refcoco refcoco_plus refcocog llava revos mevis ref_youtube_vos ref_sav videochat gcg_refcocog gcg_grandf "
    "gcg_flickr gcg_openpsg osprey_conversation osprey_description grefcoco describe_anything finetune folder sa1b"
).split()


def tiny(run: Path) -> list[str]:
    """Overrides that make any experiment small, and a run of training alone."""
    sizes = ["model=tiny", "segmenter=tiny", "data.image_size=64", "model.image_size=64", "segmenter.image_size=64"]
    sizes += ["model.hidden_size=48", "model.vit_layers=2", "data.frames_per_sample=3", "data.num_workers=0"]
    whole = ["module.curriculum.segmenter_from=0", "module.curriculum.image_tokens_from=0"]
    whole += ["trainer.accumulate_grad_batches=1", "trainer.val_check_interval=null", "+trainer.limit_val_batches=0"]
    whole += ["trainer.log_every_n_steps=1", "logger=csv", "callbacks.checkpoint=null", "callbacks.pictures=null"]
    return [*sizes, *whole, "optimized_metric=null", f"hydra.run.dir={run}"]


def overrides(root: Path, run: Path, repeats: int) -> list[str]:
    """`experiment=sa2va_4b` made tiny, every source as often, and SA-1B's masks without words beside it."""
    twice = ("llava", "describe_anything")  # as many records as the others
    given = ["+experiment=sa2va_4b", "trainer=auto", f"data.root={root}", *further(), *tiny(run)]
    given += [f"data.train.{name}.repeats={repeats / (1 + (name in twice))}" for name in ENTRIES]
    given += ["+loops.prompt_to_mask={_target_: maskcap.loops.prompt_to_mask.PromptToMask}", "data.spread=true"]
    return [*given, "mask_caption.max_length=null"]


def logged(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of everything that the run logged of its training, by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name.startswith("train/") and value:
                    found.setdefault(name.removeprefix("train/"), []).append((int(row["step"]), float(value)))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes in every layout."""
    return write_families(tmp_path_factory.mktemp("families"), count=2)


def test_every_sources_loss_is_logged_and_falls(root: Path, tmp_path: Path) -> None:
    """One run over all families at once; each source's mean over its last third is below that over its first."""
    run = tmp_path / "run"
    given = overrides(root, run, 14)
    codes = run_ranks(train, *given, "data.batch_size=8", "optimizer.lr=5e-3", output=tmp_path / "out", timeout=300)
    assert codes == [0], (tmp_path / "out" / "rank0.txt").read_text()
    values = {name: [value for _, value in pairs] for name, pairs in logged(run).items()}
    falls = {}
    for entry in ENTRIES:
        losses = values[f"source/{entry}"]
        third = len(losses) // 3
        falls[entry] = sum(losses[-third:]) / third / (sum(losses[:third]) / third)
    assert all(ratio < 1 for ratio in falls.values()), falls


def test_two_ranks_with_different_families_agree_with_one(root: Path, tmp_path: Path) -> None:
    """One sample a rank, so nearly every step has a rank with masks and one without, a video beside a text: both
    finish, and all losses are those of one rank with the same global batches."""
    found = []
    for world in (1, 2):
        run, several = tmp_path / f"of_{world}", ddp_on_cpu() if world > 1 else ["data.batch_size=2"]
        given = [*overrides(root, run, 1), *several, "trainer.precision=32-true", "+loops.prompt_to_mask.weight=0"]
        given += ["loops.caption_to_mask.sampled_points=null", "loops.dialogue.sampled_points=null", "~data.train.sa1b"]
        output = tmp_path / f"out_{world}"
        codes = run_ranks(train, *given, world=world, output=output, timeout=200)
        assert codes == [0] * world, "\n".join(file.read_text() for file in output.iterdir())
        found.append(logged(run))
    one, two = found
    assert set(one) == set(two) and {f"source/{entry}" for entry in ENTRIES[:-1]} <= set(one)
    compared = 0
    for name, pairs in one.items():
        if name.startswith(("loss", "source/", "dialogue/", "caption_to_mask/")):
            others = dict(two[name])
            for step, value in pairs:
                assert others[step] == pytest.approx(value, rel=2e-5, abs=1e-6), (name, step)
                compared += 1
    assert compared > 100


def test_sharded_ranks_with_different_families_finish(root: Path, tmp_path: Path) -> None:
    """FSDP2, one sample a rank: a rank without masks, regions or an image runs every sharded layer with the other. The
    first step's loss is that of one rank."""
    found = []
    for world in (1, 2):
        run, output = tmp_path / f"of_{world}", tmp_path / f"out_{world}"
        cpu = ["trainer.accelerator=cpu", "trainer.precision=32-true", f"data.batch_size={2 // world}"]
        given = [*overrides(root, run, 1), *(["trainer=fsdp"] if world > 1 else []), *cpu, "~data.train.sa1b"]
        given += ["loops.caption_to_mask.sampled_points=null", "loops.dialogue.sampled_points=null"]
        given += ["+loops.prompt_to_mask.weight=0", *(["trainer.max_steps=1"] if world == 1 else [])]
        codes = run_ranks(train, *given, world=world, output=output, timeout=200)
        assert codes == [0] * world, "\n".join(file.read_text() for file in output.iterdir())
        found.append(logged(run))
    one, two = found
    assert two["loss"][0] == pytest.approx(one["loss"][0], rel=2e-5)
    assert len(two["loss"]) == 19  # the whole epoch


def test_sharded_ranks_of_texts_without_images_finish(root: Path, tmp_path: Path) -> None:
    """Questions alone, no grounding map (as of pretrained models): a rank whose sample is a text runs the vision tower
    all the same."""
    run, output = tmp_path / "run", tmp_path / "out"
    given = ["+experiment=refcoco", "data=llava", "loops=dialogue", "mask_caption.grounding=false", "trainer=fsdp"]
    given += [f"data.root={root}", *tiny(run), "trainer.accelerator=cpu", "trainer.precision=32-true", "seed=5"]
    given += ["data.batch_size=1", "data.split=all", "trainer.max_epochs=4"]
    codes = run_ranks(train, *given, world=2, output=output, timeout=200)
    assert codes == [0, 0], "\n".join(file.read_text() for file in output.iterdir())
    assert len(logged(run)["loss"]) >= 8
