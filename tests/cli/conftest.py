"""Commands run in this process, with Hydra's logging undone afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra


@pytest.fixture
def command() -> Iterator[Callable[..., int]]:
    """`command(main, *arguments)` → exit code; its logging handlers are closed at the end."""
    root = logging.getLogger()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine two threads wait for each other four times as long as one works
    before = (root.level, list(root.handlers))

    def call(main: Callable[[list[str]], object], *arguments: str) -> int:
        try:
            main(list(arguments))
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        return 0

    yield call
    for handler in list(root.handlers):
        if handler not in before[1]:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(before[0])
    for handler in before[1]:
        if handler not in root.handlers:
            root.addHandler(handler)
    torch.set_num_threads(threads)
    GlobalHydra.instance().clear()
