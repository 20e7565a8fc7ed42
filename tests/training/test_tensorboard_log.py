"""TensorBoard on a disk that is full for a while: the run goes on, and so do its curves."""

from __future__ import annotations

import logging
import resource
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from maskcap.training.callbacks.pictures import send_image
from maskcap.training.tensorboard_log import TensorBoardLog


def scalars(logger: TensorBoardLog) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = []
    for file in sorted(Path(logger.log_dir).glob("events*")):
        events = EventAccumulator(str(file))
        events.Reload()
        if "loss" in events.Tags()["scalars"]:
            steps += [event.step for event in events.Scalars("loss")]
    return sorted(steps)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_a_full_disk_costs_curves_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = set(threading.enumerate())
    logger = TensorBoardLog(str(tmp_path), name="", version="tensorboard")
    logger.log_hyperparams({"lr": 0.5})
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))  # no file grows beyond 8 bytes: EFBIG, as a full disk
    try:
        with caplog.at_level(logging.ERROR):
            for step in range(1, 30):
                logger.log_metrics({"loss": 1.0}, step)
                send_image(logger, "picture", noise, step)
                logger.save()
            logger.log_hyperparams({"lr": 0.5})
            logger._again = 0.0  # the minute is over, and the disk still full
            logger.log_metrics({"loss": 1.0}, 30)
            logger.save()
            logger.finalize("success")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    said = [record.message for record in caplog.records if "could not be written" in record.message]
    assert 1 <= len(said) <= 4 and str(tmp_path / "tensorboard") in said[0]  # and not at every step
    logger._again = 0.0
    logger.log_metrics({"loss": 1.0}, 31)
    logger.finalize("success")
    assert scalars(logger)[0] == 0 and scalars(logger)[-1] == 31
    for thread in set(threading.enumerate()) - others:  # or their last errors would be another test's
        thread.join(5)
