"""Processes for tests that kill, signal or join them: forked by a server that has imported the heavy packages once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preload"])


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_ranks(
    target: Callable[..., object],
    *arguments: Any,
    world: int = 1,
    output: Path,
    environment: Mapping[str, str] | None = None,
) -> list[Any]:
    """`target(*arguments)` in `world` processes, with torchrun's environment when they are several; not waited for.

    target: importable, picklable. output: folder; what rank r prints goes to `rank<r>.txt`, appended. Exit codes: a
    SystemExit's own, 1 for another exception, -n for signal n.
    """
    port = free_port()
    processes = []
    output.mkdir(parents=True, exist_ok=True)
    for rank in range(world):
        own = _torchrun(rank, world, port) if world > 1 else {}
        own |= dict(environment or {})
        file = str(output / f"rank{rank}.txt")
        process = CONTEXT.Process(target=_run, args=(target, arguments, own, file))
        process.start()
        processes.append(process)
    return processes


def join(processes: Sequence[Any], timeout: float = 120) -> list[int | None]:
    """Their exit codes; whoever has not ended in time is killed, and has None."""
    codes = []
    for process in processes:
        process.join(timeout)
        codes.append(process.exitcode)
        if process.exitcode is None:
            process.kill()
            process.join()
    return codes


def run_ranks(
    target: Callable[..., object],
    *arguments: Any,
    world: int = 1,
    output: Path,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> list[int | None]:
    """`start_ranks` and `join`."""
    return join(start_ranks(target, *arguments, world=world, output=output, environment=environment), timeout)


def train(*overrides: str) -> None:
    """`python train.py …` in this process: a target for `start_ranks`."""
    from maskcap.cli.train import main

    main(list(overrides))


def tiny_run(data: Path, *further: str) -> list[str]:
    """Overrides of a run that takes a second or two: 12 steps (2 epochs of 6) of 2 images at 64 px, tiny models.

    data: where the scenes are drawn on first use. No validation; add `data.limit_val=2 trainer.limit_val_batches=null
    +callbacks…` for one.
    """
    sizes = ["data.prepare.train=16", "data.prepare.val=3", "data.prepare.size=64", f"data.root={data}"]
    sizes += ["data.image_size=64", "model.image_size=64", "segmenter.image_size=64", "model.hidden_size=32"]
    sizes += ["data.batch_size=2", "data.samples_per_epoch=12", "data.regions_per_image=2"]
    short = ["trainer.max_epochs=2", "trainer.log_every_n_steps=1", "+trainer.limit_val_batches=0", "logger=csv"]
    short += ["mask_caption.max_new_tokens=3", "module.meteor=false", "callbacks.scene_probes=null"]
    short += ["callbacks.checkpoint=null", "callbacks.pictures=null", "optimized_metric=null"]
    return [*sizes, *short, *further]


def ddp_on_cpu(batch_size: int = 1) -> list[str]:
    """Overrides for several ranks on a CPU; batch_size: images of each rank."""
    cpu = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.deterministic=true"]
    return [*cpu, f"data.batch_size={batch_size}"]


def _torchrun(rank: int, world: int, port: int) -> dict[str, str]:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    values |= {"GROUP_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    values |= {"TORCHELASTIC_RESTART_COUNT": 0, "OMP_NUM_THREADS": 1}
    return {name: str(value) for name, value in values.items()}


def _run(target: Callable[..., object], arguments: Sequence[Any], environment: Mapping[str, str], output: str) -> None:
    import torch
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    os.environ.update(environment)
    rank_zero_only.rank = int(os.environ.get("RANK", 0))  # read when it was imported: before the fork
    torch.set_num_threads(1)
    with open(output, "a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    multiprocessing.set_start_method("fork", force=True)  # of a loader's workers: this process came from the server
    sys.argv = ["train.py"]
    with contextlib.suppress(KeyboardInterrupt):
        target(*arguments)
