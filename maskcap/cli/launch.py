"""Hydra around a command: where `conf/` is, how overrides are read, and every user's mistake as one short message.

Exit codes: 1 for a mistake in the overrides (Hydra could not compose), 2 for any MaskcapError. HYDRA_FULL_ERROR=1
shows the whole traceback instead. Nothing heavy is imported here, so that `--help` is quick.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import maskcap
from maskcap.errors import ConfigError, MaskcapError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

_SWEEPER = "hydra_plugins.maskcap_optuna.OptunaSweeper"

Task = Callable[["DictConfig"], float | None]


def launch(task: Task, config_name: str, arguments: Sequence[str] | None = None) -> None:
    """Run `task` under Hydra with `conf/<config_name>.yaml` and the command line (default: sys.argv).

    Raises SystemExit with the codes above when something goes wrong; other exceptions are bugs and pass through.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from maskcap.cli.slurm import check_launcher

    full = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    given = experiment_in_its_place(sys.argv[1:] if arguments is None else arguments)

    start_time.cache_clear()
    OmegaConf.register_new_resolver("start_time", start_time, replace=True)

    begun, failed = [], []

    def guarded(config: DictConfig) -> float | None:
        """The task, whose MaskcapErrors are reported."""
        if _rank() > 0:
            logging.getLogger().setLevel(logging.WARNING)  # rank 0 tells the story
        begun.append(True)
        try:
            check_launcher()
            return task(config)
        except MaskcapError as error:
            if full:
                raise
            _end_run(error)
            failed.append(error)
            return None

    setattr(guarded, "failed", failed)  # noqa: B010  of runs in other processes: their launcher tells

    try:
        folder = str(conf_folder())
        with _command_line(given), _hydra_raises():
            hydra.main(version_base="1.3", config_path=folder, config_name=config_name)(guarded)()
        if failed:
            raise SystemExit(2)
    except MaskcapError as error:
        if full:
            raise
        fail(str(error), code=2)
    except (HydraException, OmegaConfBaseException) as error:
        if full:
            raise
        from maskcap.cli.overrides import explain

        fail(explain(error, folder, config_name, given), code=1)
    except (OSError, ValueError) as error:
        from maskcap.training.run_folder import system_error, unwritable

        cause = system_error(error)  # logging puts a ValueError around it
        if full or begun or cause is None:
            raise
        fail(str(unwritable(cause)), code=2)


@functools.cache
def start_time() -> str:
    """`2026-01-31_12-00-00`, when this command began; every rank that torchrun started gives rank 0's answer.

    So all ranks share one run folder. They agree through torchrun's own store. In a batch job of Slurm's, `slurm_12_0`:
    that is still its name when the job is started again (see `job_folder`).
    """
    from maskcap.cli.slurm import job_folder

    if (job := job_folder()) is not None:
        return job
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    environment = os.environ
    if environment.get("WORLD_SIZE", "1") == "1" or environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return now
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False)
    key = f"maskcap/start_time/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if environment["RANK"] == "0":
        store.set(key, now)
    return store.get(key).decode()


def fail(message: str, code: int) -> None:
    """`report` and exit."""
    report(message)
    raise SystemExit(code)


def _end_run(error: MaskcapError) -> None:
    """Report a run's error, and exit; of a multirun the other runs are made first, and all of them compared.

    A trial's error goes on to the sweeper, which counts it; that of a job of submitit's to who submitted it.
    """
    try:
        report(str(error))
    finally:
        _forget_empty_run()
    if _is_trial() or "SUBMITIT_EXECUTOR" in os.environ:
        raise error
    if not _in_multirun():
        raise SystemExit(2) from None


def report(message: str) -> None:
    """Print one message to stderr, keep it in the run's log file where there is one."""
    print(f"error: {message}", file=sys.stderr)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None))


def _in_multirun() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def _is_trial() -> bool:
    """Whether this run is a trial of `hydra/sweeper=optuna`."""
    from hydra.core.hydra_config import HydraConfig

    return _in_multirun() and HydraConfig.get().sweeper.get("_target_") == _SWEEPER


def _forget_empty_run() -> None:
    """Remove the run's folder when it holds a log, its lock and nothing else: the run failed before it began.

    Ranks share the folder: rank 0 removes it, if nobody else has done so or written into it meanwhile.
    """
    from hydra.core.hydra_config import HydraConfig

    if _rank() > 0:
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    with suppress(OSError):
        files = list(folder.iterdir())
        if all(file.is_file() and (file.suffix == ".log" or file.name == ".lock") for file in files):
            for file in files:
                file.unlink(missing_ok=True)
            folder.rmdir()


def _rank() -> int:
    """Of this process among those that torchrun or Slurm started; 0 when it is alone."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def conf_folder() -> Path:
    """`conf/` of the repository. Raises ConfigError where maskcap was installed without it."""
    folder = Path(maskcap.__file__).resolve().parent.parent / "conf"
    if not (folder / "train.yaml").is_file():
        raise ConfigError(
            f"{folder} is missing: the commands read their configuration from the repository. "
            "Clone it and install with `pip install -e .`"
        )
    return folder


def experiment_in_its_place(arguments: Sequence[str]) -> list[str]:
    """`+experiment=name` → `experiment=name`.

    The defaults list has a place for it, before `debug`; with the plus, Hydra would put it last, and it would undo
    what `debug=…` sets.
    """
    return [re.sub(r"^\+experiment=", "experiment=", argument) for argument in arguments]


@contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads sys.argv."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """With this variable Hydra raises its errors instead of printing them and exiting."""
    before: Any = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
