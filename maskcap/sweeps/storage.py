"""Optuna's storage, which the sweep and its trials' processes share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from maskcap.errors import ConfigError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_PATIENCE = 60.0  # seconds that a process waits for another's write to the file


def sqlite_url(folder: Path) -> str:
    """Of `study.db` in a sweep's folder, absolute: trials may run elsewhere."""
    return f"sqlite:///{folder.resolve() / 'study.db'}"


@contextmanager
def open_storage(url: str) -> Iterator[RDBStorage]:
    """Closed at the end. Raises ConfigError for a URL that cannot be opened."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    for talker in ("optuna", "alembic"):  # a line for every trial, and for every table
        logging.getLogger(talker).setLevel(logging.WARNING)
    options = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else {}
    try:
        storage = RDBStorage(url, engine_kwargs=options)
    except (SQLAlchemyError, ImportError, ValueError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"hydra.sweeper.storage={url} cannot be opened: {' '.join(str(error).split())[:300]}"
        ) from error
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def worth_pruning(storage: RDBStorage, study: str, trial: int) -> bool:
    """What the study's pruner says of a running trial (its identity in the storage) at its newest step."""
    import optuna

    from maskcap.sweeps.settings import PrunerSettings

    known = optuna.load_study(study_name=study, storage=storage)
    pruner = PrunerSettings(**known.user_attrs["pruner"]).build()
    return pruner.prune(known, storage.get_trial(trial))
