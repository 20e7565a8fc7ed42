"""`maskcap doctor`: are the weights really loaded, is [SEG] wired, does one batch overfit?"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcap.cli.launch import launch
from maskcap.config import CheckedConfig, Schema
from maskcap.errors import ConfigError, MaskcapError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from maskcap.doctor.findings import Check, Finding, Patient

_OWN: Schema = {"steps": int, "factor": float, "lr": float, "images": int, "out": str | None, "allow_random": bool}
_LEAST = {"steps": 2, "factor": 1.0, "images": 1, "lr": 0.0}
_NOT_HERE = ("callbacks", "logger", "max_epochs", "max_steps")
_ONE_DEVICE = {"devices": 1, "num_nodes": 1, "strategy": "auto", "logger": False, "enable_progress_bar": False}
_MARKS = {True: "✓", False: "✗", None: "–"}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to sys.argv[1:]. Raises SystemExit with code 2 when anything is wrong."""
    wrong: list[int] = []
    launch(lambda config: wrong.append(run(config)), "doctor", arguments)
    if any(wrong):
        raise SystemExit(2)


def run(config: DictConfig) -> int:
    """Make every check, print it, write doctor.json; returns how many found something wrong.

    Raises ConfigError for a configuration that is wrong as it stands: train.py would say the same.
    """
    import lightning

    from maskcap.cli.build import quiet_lightning
    from maskcap.cli.from_shards import use_shards
    from maskcap.cli.train import TRAIN_SCHEMA
    from maskcap.config import check_config

    use_shards(config)
    checked = check_config(config, {**TRAIN_SCHEMA, **_OWN})
    for name, least in _LEAST.items():
        if checked[name] < least:
            raise ConfigError(f"{name}={checked[name]}: needs at least {least}")
    folder = Path(checked["paths"]["run"])
    with quiet_lightning():
        lightning.seed_everything(checked["seed"])
        findings = examine(_patient(checked, folder), _checks(), _say)
    out = Path(checked["out"] or folder / "doctor.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {name: finding.to_json() for name, finding in findings.items()}
    out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    wrong = [name for name, finding in findings.items() if finding.ok is False]
    print(f"{'wrong: ' + ', '.join(wrong) if wrong else 'nothing is wrong'}; {out}")
    return len(wrong)


def examine(
    patient: Patient, checks: Mapping[str, Check], say: Callable[[str, Finding, float], None]
) -> dict[str, Finding]:
    """Every check's finding, told to `say` with its seconds as soon as it is there.

    A MaskcapError, memory that ran out and an error of torch's are findings too; what needs a part that is missing is
    not reached.
    """
    from maskcap.doctor.findings import Finding, NotReachedError

    findings = {}
    for name, check in checks.items():
        began = time.monotonic()
        try:
            finding = _guarded(check, patient)
        except NotReachedError as error:
            finding = Finding(None, f"not reached: {error}")
        findings[name] = finding
        say(name, finding, time.monotonic() - began)
    return findings


def _guarded(check: Check, patient: Patient) -> Finding:
    import torch

    from maskcap.cli.build import clear_errors
    from maskcap.doctor.findings import Finding

    try:
        with clear_errors():
            return check(patient)
    except MaskcapError as error:
        return Finding(False, str(error))
    except torch.OutOfMemoryError as error:
        fix = "images=1; smaller data.regions_per_image, segmenter.decode_chunk, mask_caption.activation_checkpointing"
        return Finding(False, f"memory ran out: {str(error).splitlines()[0]}", fix)
    except RuntimeError as error:
        where = traceback.format_exc().splitlines()
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return Finding(False, f"torch: {said}", "the JSON file says where", {"traceback": where})


def _checks() -> dict[str, Check]:
    from maskcap.doctor.learning import check_learning
    from maskcap.doctor.surroundings import check_checkpoint, check_data, check_device
    from maskcap.doctor.weights import check_weights
    from maskcap.doctor.wiring import check_packing, check_regions, check_seg, check_tokens

    return {
        "device": check_device,
        "data": check_data,
        "weights": check_weights,
        "tokens": check_tokens,
        "[SEG]": check_seg,
        "regions": check_regions,
        "packing": check_packing,
        "checkpoint": check_checkpoint,
        "one batch": check_learning,
    }


def _patient(checked: CheckedConfig, folder: Path) -> Patient:
    """The run on one device, with a batch of a few images."""
    from maskcap.doctor.findings import Patient

    values: dict[str, Any] = dict(checked.values)
    trainer = {key: value for key, value in values["trainer"].items() if key not in _NOT_HERE}
    if "on_error" in values["checkpoints"]:
        values["checkpoints"] = values["checkpoints"] | {"on_error": "raise"}  # a save that failed must be seen
    values["trainer"] = trainer | _ONE_DEVICE | {"default_root_dir": str(folder)}
    size = min(values["images"], values["data"].get("batch_size") or values["images"])
    values["data"] = values["data"] | {"batch_size": size}
    options = {key: values[key] for key in ("images", "steps", "factor", "lr", "allow_random")}
    return Patient(CheckedConfig(values, checked.trusted), folder, **options)


def _say(name: str, finding: Finding, seconds: float) -> None:
    print(f"{_MARKS[finding.ok]} {name:<10} {finding.said}  [{seconds:.1f} s]", flush=True)
    if finding.ok is False and finding.fix:
        print(f"  {'':<10} → {finding.fix}", flush=True)
