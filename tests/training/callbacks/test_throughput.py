"""Windows by a clock that only the test moves; then a real fit."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from maskcap.data.batch import Batch
from maskcap.errors import ConfigError
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.work import Work
from maskcap.training.callbacks.metrics_file import MetricsFile
from maskcap.training.callbacks.progress import RichBars
from maskcap.training.callbacks.throughput import Throughput, Window, batch_size, peak_memory_gib, summarise
from maskcap.training.flops import step_flops, unit_flops
from maskcap.training.module import MaskCaptionModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]

ALL = {
    "regions_per_s",
    "images_per_s",
    "tokens_per_s",
    "padding_share",
    "data_wait_share",
    "peak_memory_gib",
    "tflops_per_s",
}


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wrap(self, function: Any, seconds: float) -> Any:
        def slow(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return function(*args, **kwargs)

        return slow


class Told(pl.LightningModule):
    """Steps of one second, the first of ten; says that each read 10 tokens in 16 places."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.clock = clock
        self.last_work: Work | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.clock.now += 1.0 if self.last_work else 10.0
        self.last_work = Work(tokens=10, slots=16)
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.clock.now += 1000

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def batches(clock: Clock, tiny_batch: Batch) -> DataLoader[Any]:
    """Eight batches of 2 images and 3 regions; each takes a quarter of a second to make."""
    return DataLoader(range(8), collate_fn=clock.wrap(lambda _: tiny_batch, 0.25))  # pyright: ignore[reportArgumentType]


def _rows(folder: Path) -> dict[int, dict[str, float]]:
    """What the CSV logger has of `throughput/…`, by step (of the optimiser, from 1)."""
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = {}
    for row in table:
        values = {name[11:]: float(cell) for name, cell in row.items() if name.startswith("throughput/") and cell}
        if values:
            assert int(row["step"]) + 1 not in rows
            rows[int(row["step"]) + 1] = values
    return rows


def _fit(make_trainer: Any, folder: Path, module: Any, loaders: Any, *callbacks: pl.Callback, **options: Any) -> Any:
    logger = CSVLogger(folder, name="", version="")
    make_trainer(*callbacks, logger=logger, **{"max_epochs": 1, "log_every_n_steps": 1, **options}).fit(
        module, *loaders
    )
    return _rows(folder)


def test_windows_leave_the_warm_up_out(clock: Clock, batches: Any, make_trainer: Any, tmp_path: Path):
    callback = Throughput(every=3, warmup=2, clock=clock)
    rows = _fit(make_trainer, tmp_path, Told(clock), [batches], callback, log_every_n_steps=7)
    assert list(rows) == [3, 6]  # whatever log_every_n_steps is; 7 and 8 fill no window
    assert set(rows[6]) == ALL - {"tflops_per_s"}  # no model to count the FLOPs of
    assert rows[3]["regions_per_s"] == 3  # one batch of one second: the first after the warm-up, its wait not counted
    assert rows[3]["data_wait_share"] == 0
    assert rows[6]["regions_per_s"] == pytest.approx(3 * 3 / 3.75)
    assert rows[6]["images_per_s"] == pytest.approx(3 * 2 / 3.75)
    assert rows[6]["tokens_per_s"] == pytest.approx(3 * 10 / 3.75)
    assert rows[6]["padding_share"] == pytest.approx(6 / 16)
    assert rows[6]["data_wait_share"] == pytest.approx(0.75 / 3.75)


def test_validation_and_its_wait_are_in_no_window(clock: Clock, batches: Any, make_trainer: Any, tmp_path: Path):
    options = {"val_check_interval": 5, "limit_val_batches": 2, "num_sanity_val_steps": 1}
    callback = Throughput(every=3, warmup=2, clock=clock)
    rows = _fit(make_trainer, tmp_path, Told(clock), [batches, batches], callback, **options)
    assert clock.now > 3000
    # steps 4 and 5 with their waits, step 6 without
    assert rows[6]["regions_per_s"] == pytest.approx(9 / 3.5)
    assert rows[6]["data_wait_share"] == pytest.approx(0.5 / 3.5)


@pytest.mark.parametrize("before", [True, False], ids=["before the hook", "after the hook"])
def test_checkpoints_are_in_no_window(before: bool, clock: Clock, batches: Any, make_trainer: Any, tmp_path: Path):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "5.ckpt")
                clock.now += 1000

    callbacks: list[pl.Callback] = [Throughput(every=3, warmup=2, clock=clock)]
    callbacks.insert(0 if before else 1, Save())
    rows = _fit(make_trainer, tmp_path, Told(clock), [batches], *callbacks)
    if before:  # the batch that the checkpoint's time stands in is left out as a whole
        assert rows[6]["regions_per_s"] == pytest.approx(6 / 2.25)
    else:
        assert rows[6]["regions_per_s"] == pytest.approx(9 / 3.5)
    assert "throughput" not in str(torch.load(tmp_path / "5.ckpt", weights_only=False))


def test_accumulation_counts_batches_by_optimiser_steps(clock: Clock, batches: Any, make_trainer: Any, tmp_path: Path):
    callback = Throughput(every=2, warmup=0, clock=clock)
    rows = _fit(make_trainer, tmp_path, Told(clock), [batches], callback, accumulate_grad_batches=2)
    assert list(rows) == [2, 4]
    assert rows[4]["regions_per_s"] == pytest.approx(4 * 3 / (4 * 1.25))


def test_a_second_fit_begins_anew(clock: Clock, batches: Any, make_trainer: Any, tmp_path: Path):
    callback = Throughput(every=6, warmup=2, clock=clock)
    first = _fit(make_trainer, tmp_path / "first", Told(clock), [batches], callback)
    clock.now += 1000
    assert _fit(make_trainer, tmp_path / "second", Told(clock), [batches], callback).keys() == first.keys()
    second = _rows(tmp_path / "second")
    assert second[6]["regions_per_s"] == first[6]["regions_per_s"]


def test_a_module_that_tells_nothing(module: Any, loader: Any, make_trainer: Any, tmp_path: Path):
    rows = _fit(make_trainer, tmp_path, module, [loader], Throughput(every=2, warmup=1))
    assert set(rows[2]) == {"data_wait_share", "peak_memory_gib"}


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_ranks_add_up(clock: Clock, batches: Any, make_trainer: Any, tmp_path: Path):
    options = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    rows = _fit(make_trainer, tmp_path, Told(clock), [batches], Throughput(every=3, clock=clock), **options)
    assert rows[6]["regions_per_s"] == pytest.approx(2 * 9 / 3.75)
    assert rows[6]["padding_share"] == pytest.approx(6 / 16)
    assert rows[6]["data_wait_share"] == pytest.approx(0.75 / 3.75)


def test_a_padding_batch_has_no_regions(tiny_batch: Batch):
    assert batch_size(tiny_batch) == (3, 2)
    assert batch_size(replace(tiny_batch, padding=(True, True))) == (0, 0)
    assert all(math.isnan(size) for size in batch_size([tiny_batch]))


def test_mfu_is_the_share_of_the_peak():
    values = summarise(Window(seconds=2.0, flops=3e12), 10e12, 1.5)
    assert values["tflops_per_s"] == 1.5
    assert values["mfu"] == pytest.approx(0.15)
    assert values["peak_memory_gib"] == 1.5
    assert math.isnan(values["padding_share"])  # no language model ran
    assert math.isnan(summarise(Window(seconds=2.0, flops=3e12), None, 1.5)["mfu"])


def test_memory_of_this_process():
    block = torch.ones(2**26)  # 256 MiB
    before = peak_memory_gib(torch.device("cpu"))
    del block
    assert 0.25 < before <= peak_memory_gib(torch.device("cpu"))  # a peak does not fall


@pytest.mark.parametrize("options", [{"every": 0}, {"warmup": -1}, {"peak_flops": 0.0}])
def test_settings_out_of_range_are_refused(options: dict[str, Any]):
    with pytest.raises(ConfigError, match=rf"callbacks.throughput.{next(iter(options))}="):
        Throughput(**options)


def _train(folder: Path, model: MaskCaptionModel, batch: Batch, *callbacks: pl.Callback) -> dict[str, Any]:
    """Two epochs of four real steps; returns metrics.json without its times."""
    pl.seed_everything(0, verbose=False)
    loops = {"mask_to_caption": MaskToCaption(), "caption_to_mask": CaptionToMask()}
    module = MaskCaptionModule(model, loops, meteor=False, pictures=0)
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=2, accelerator="cpu", log_every_n_steps=1, limit_val_batches=1,
        num_sanity_val_steps=0, enable_model_summary=False,
        enable_progress_bar=any(isinstance(each, RichBars) for each in callbacks),
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[*callbacks, MetricsFile(), ModelCheckpoint(folder, "last", enable_version_counter=False)],
    )  # fmt: skip
    loader = DataLoader(range(4), collate_fn=lambda _: batch)  # pyright: ignore[reportArgumentType]
    trainer.fit(module, loader, loader)
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if not name.endswith("_seconds")}


def test_a_real_fit(
    tiny_model: MaskCaptionModel, worded_batch: Batch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    start = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    plain = _train(tmp_path / "plain", tiny_model, worded_batch)
    tiny_model.load_state_dict(start)
    callback = Throughput(every=2, peak_flops=1e12)
    with caplog.at_level(logging.INFO, logger="maskcap"):
        bars = RichBars(log_every=4, console_kwargs={"file": io.StringIO()})
        measured = _train(tmp_path / "measured", tiny_model, worded_batch, callback, bars)
    assert measured == plain  # the same seed, the same numbers
    rows = _rows(tmp_path / "measured")
    assert list(rows) == [4, 6, 8]  # the first window is all warm-up
    assert all(set(row) == ALL | {"mfu"} for row in rows.values())
    assert all(0 < row["padding_share"] < 1 and 0 <= row["data_wait_share"] < 1 for row in rows.values())
    last = rows[8]
    assert last["regions_per_s"] / last["images_per_s"] == pytest.approx(3 / 2)
    assert last["mfu"] == pytest.approx(last["tflops_per_s"])
    assert "throughput" not in str(torch.load(tmp_path / "measured" / "last.ckpt", weights_only=False))
    assert any("regions/s" in message and "mfu" in message for message in caplog.messages)
    assert (tmp_path / "measured" / "curves.png").stat().st_size > 0


def test_flops_a_second_are_the_steps_own(
    tiny_model: MaskCaptionModel, tiny_batch: Batch, make_trainer: Any, tmp_path: Path, clock: Clock
):
    loops = {"mask_to_caption": MaskToCaption(), "caption_to_mask": CaptionToMask()}
    module = MaskCaptionModule(tiny_model, loops, meteor=False)
    module.training_step = clock.wrap(module.training_step, 2.0)
    loader = DataLoader(range(2), collate_fn=lambda _: tiny_batch)  # pyright: ignore[reportArgumentType]
    rows = _fit(make_trainer, tmp_path, module, [loader], Throughput(every=2, warmup=1, clock=clock))
    assert module.last_work is not None
    flops = step_flops(unit_flops(tiny_model), module.last_work).total
    assert rows[2]["tflops_per_s"] == pytest.approx(flops / 2.0 / 1e12)


def test_an_unknown_device_is_named_once(
    tiny_model: MaskCaptionModel, tiny_batch: Batch, make_trainer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    module = MaskCaptionModule(tiny_model, {"mask_to_caption": MaskToCaption()}, meteor=False)
    loader = DataLoader(range(4), collate_fn=lambda _: tiny_batch)  # pyright: ignore[reportArgumentType]
    with caplog.at_level(logging.INFO, logger="maskcap.training.callbacks.throughput"):
        rows = _fit(make_trainer, tmp_path, module, [loader], Throughput(every=2))
    assert [message for message in caplog.messages if "MFU" in message] == [
        "no MFU: the peak FLOP/s of cpu is not known; set callbacks.throughput.peak_flops"
    ]
    assert set(rows[4]) == ALL


def test_a_run_shorter_than_a_window_reports_at_its_end(clock: Clock, batches: Any, make_trainer: Any, tmp_path: Path):
    rows = _fit(make_trainer, tmp_path, Told(clock), [batches], Throughput(every=50, warmup=2, clock=clock))
    assert list(rows) == [8] and rows[8]["regions_per_s"] == pytest.approx(6 * 3 / (6 + 5 * 0.25))
    make_trainer(Throughput(warmup=8, clock=clock), logger=CSVLogger(tmp_path / "all warm-up"), max_epochs=1).fit(
        Told(clock), batches
    )
    assert not list(tmp_path.glob("all warm-up/**/metrics.csv"))


def test_what_a_report_takes_is_nobodys_wait(clock: Clock, batches: Any, make_trainer: Any, tmp_path: Path):
    slow = CSVLogger(tmp_path, name="", version="")
    slow.log_metrics = clock.wrap(slow.log_metrics, 100.0)  # type: ignore[method-assign]
    callback = Throughput(every=1, warmup=1, clock=clock)
    make_trainer(callback, logger=slow, max_epochs=1, log_every_n_steps=8).fit(Told(clock), batches)
    shares = [row["data_wait_share"] for row in _rows(tmp_path).values()]
    assert len(shares) == 7 and shares[1:] == [pytest.approx(0.25 / 1.25)] * 6


def test_accumulated_steps_are_reported_whole(clock: Clock, batches: Any, make_trainer: Any, tmp_path: Path):
    """The warm-up ends with an optimiser step: the next batch alone is no window."""
    callback = Throughput(every=1, warmup=2, clock=clock)
    rows = _fit(make_trainer, tmp_path, Told(clock), [batches], callback, accumulate_grad_batches=2)
    assert list(rows) == [2, 3, 4]
    assert rows[2]["regions_per_s"] == pytest.approx(6 / 2.25) and rows[3]["regions_per_s"] == pytest.approx(6 / 2.5)


def test_a_padding_batch_adds_its_seconds_alone(tiny_batch: Batch):
    window = Window()
    window.add(replace(tiny_batch, padding=(True, True)), Work(tokens=10, slots=16), None, 0.5)
    assert (window.waited, window.regions, window.tokens, window.slots, window.flops) == (0.5, 0, 0, 0, 0)


def test_regions_of_images_that_no_loop_learned_from_are_left_out(
    tiny_model: MaskCaptionModel, tiny_batch: Batch, make_trainer: Any, tmp_path: Path, clock: Clock
):
    """The second image has no words: two regions of one image in each of two seconds, and nothing of a blank batch."""
    assert batch_size(tiny_batch) == batch_size(tiny_batch, [0, 1]) == (3, 2)
    assert batch_size(tiny_batch, [1]) == (1, 1) and batch_size(tiny_batch, []) == (0, 0)
    module = MaskCaptionModule(tiny_model, {"mask_to_caption": MaskToCaption()}, meteor=False)
    module.training_step = clock.wrap(module.training_step, 2.0)
    loader = DataLoader(range(2), collate_fn=lambda _: tiny_batch)  # pyright: ignore[reportArgumentType]
    rows = _fit(make_trainer, tmp_path, module, [loader], Throughput(every=2, warmup=1, clock=clock))
    assert rows[2]["regions_per_s"] == pytest.approx(1.0) and rows[2]["images_per_s"] == pytest.approx(0.5)


def test_frames_count_as_images_and_texts_do_not(tiny_batch: Batch) -> None:
    batch = replace(tiny_batch, frame_owner=(0, 0, 1), blank=(False, True))
    assert batch_size(batch) == (3, 4) and batch_size(batch, [0]) == (2, 3) and batch_size(batch, [1]) == (1, 1)
