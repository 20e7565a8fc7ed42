"""Which code, on which machine: what a run's folder says beside its configuration.

Heavy packages are asked for their versions only, not imported.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import maskcap

_PACKAGES = ("torch", "lightning", "transformers", "peft", "numpy", "hydra-core")


def versions() -> dict[str, str]:
    """Of maskcap, Python and the packages that a run's numbers depend on."""
    found = {"maskcap": maskcap.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # put on the path without its metadata
            found[name] = "unknown"
    return found


def code_version(folder: Path | None = None) -> dict[str, Any]:
    """`commit` and `dirty` (whether files that git tracks differ from it) of maskcap's repository, or of `folder`'s;
    both None where there is no repository or no git."""
    folder = Path(maskcap.__file__).resolve().parent.parent if folder is None else folder
    try:
        own = _git(folder, "rev-parse", "--show-toplevel")
        if Path(own).resolve() != folder.resolve():  # installed into an environment inside someone else's repository
            return {"commit": None, "dirty": None}
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def machine() -> dict[str, Any]:
    """The host, its processor and cores, and its GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"host": platform.node(), "system": platform.platform(), "processor": platform.machine(), "cores": cores} | {
        "gpus": gpus,
        "cuda": torch.version.cuda,
    }


def command_line() -> str:
    """What was typed, as near as the process knows."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
