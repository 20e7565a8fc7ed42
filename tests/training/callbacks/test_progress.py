from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import rich

from maskcap.training.callbacks.progress import RichBars

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture(autouse=True)
def keep_rich_console() -> Iterator[None]:
    """Lightning's bar reconfigures rich's shared console."""
    console = rich.get_console()
    before = dict(console.__dict__)
    yield
    console.__dict__.update(before)


def test_a_terminal_shows_each_loss_and_the_learning_rate(make_trainer: Any, module: Any, loader: Any):
    screen = io.StringIO()
    bars = RichBars(console_kwargs={"file": screen, "force_terminal": True, "width": 160, "color_system": None})
    make_trainer(bars).fit(module, loader, loader)
    shown = screen.getvalue()
    assert bars.is_enabled
    assert re.search(r"caption: \d\.\d{3} mask: \d\.\d{3} loss: \d\.\d{3} lr: 1\.0e-02", shown)
    assert "map" not in shown
    assert "Epoch 1/1" in shown


def test_without_a_terminal_lines_are_logged(
    make_trainer: Any, module: Any, loader: Any, caplog: pytest.LogCaptureFixture
):
    out = io.StringIO()
    with caplog.at_level(logging.INFO, logger="maskcap"):
        make_trainer(RichBars(log_every=3, console_kwargs={"file": out})).fit(module, loader, loader)
    assert out.getvalue() == ""
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("maskcap")]
    pattern = r"step 3/8  epoch 0  caption 2?\d\.\d{4}  mask \d\.\d{4}  loss \d\.\d{4}  lr 1\.0e-02  \d+\.\d\d steps/s"
    assert re.fullmatch(pattern, lines[0])
    assert lines[1] == "step 4  validation  val/miou 0.250  val/ciou 0.500"
    assert [line.split("  ")[0] for line in lines] == ["step 3/8", "step 4", "step 6/8", "step 8"]


def test_the_cycles_scores_are_among_a_validations(
    make_trainer: Any, module: Any, loader: Any, caplog: pytest.LogCaptureFixture
):
    class Scores(pl.Callback):
        def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.log("val/cross_frame_miou", 0.75)
            pl_module.log("val/cycle_miou", 0.5)

    with caplog.at_level(logging.INFO, logger="maskcap"):
        bars = RichBars(console_kwargs={"file": io.StringIO()})
        make_trainer(Scores(), bars, max_epochs=1).fit(module, loader, loader)
    (line,) = [message for message in caplog.messages if "validation" in message]
    assert line.endswith("val/ciou 0.500  val/cycle_miou 0.500  val/cross_frame_miou 0.750")


def test_speeds_are_shown_once_they_are_known(
    make_trainer: Any, module: Any, loader: Any, caplog: pytest.LogCaptureFixture
):
    class Speeds(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
            if trainer.global_step == 2:
                pl_module.log("throughput/regions_per_s", 12.34, prog_bar=True)
                pl_module.log("throughput/mfu", 0.4321, prog_bar=True)

    bars = RichBars(log_every=1, console_kwargs={"file": io.StringIO()})
    with caplog.at_level(logging.INFO, logger="maskcap"):
        make_trainer(Speeds(), bars, max_epochs=1).fit(module, loader, loader)
    lines = [message for message in caplog.messages if "loss" in message]
    assert "regions/s" not in lines[0] and "mfu" not in lines[0]
    assert all("lr 1.0e-02  regions/s 12.3  mfu 43.2%" in line for line in lines[1:])


def test_accumulated_batches_log_one_line_a_step(
    make_trainer: Any, module: Any, loader: Any, caplog: pytest.LogCaptureFixture
):
    bars = RichBars(log_every=1, console_kwargs={"file": io.StringIO()})
    with caplog.at_level(logging.INFO, logger="maskcap"):
        make_trainer(bars, accumulate_grad_batches=2, max_epochs=1).fit(module, loader, loader)
    assert [m.split("  ")[0] for m in caplog.messages if "loss" in m] == ["step 1/2", "step 2/2"]


def test_enabling_it_without_a_terminal_draws_no_bar():
    bars = RichBars(console_kwargs={"file": io.StringIO()})
    bars.enable()
    assert bars.is_disabled


def test_a_line_every_zero_steps_is_refused():
    with pytest.raises(ValueError, match="log_every=0"):
        RichBars(log_every=0)
