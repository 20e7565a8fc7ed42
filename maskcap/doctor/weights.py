"""Are the weights really loaded?

A fresh model of the Hugging Face classes has constant vectors: norms of ones, biases of zeros. The first steps of any
training change every one of them, so a part whose vectors are constant was never trained, whatever its folder's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskcap.doctor.findings import Finding, Patient
from maskcap.models.adapters import count_parameters

_FRESH = 0.9  # share of constant vectors from which a part counts as untrained
_NUMBERS = 64  # of each tensor that is compared with the folder's


def check_weights(patient: Patient) -> Finding:
    """Builds the model, which raises ConfigError for weights that are missing, of another size or of a precision
    that the trainer's does not go with, and looks at them; makes the module."""
    from maskcap.cli.build import check_together

    module = patient.config.build("module")
    check_together(patient.config, patient.data, module, patient.need("trainer"))
    module = patient.need("trainer").precision_plugin.convert_module(module).to(patient.device)
    patient.module = module.train()
    every, trained = count_parameters(module)
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in module.parameters()})
    facts: dict[str, Any] = {"parameters": every, "trained": trained, "dtypes": dtypes, "parts": {}}
    said = f"{every / 1e6:.2f} M parameters ({', '.join(dtypes)}), {trained / 1e6:.2f} M train"
    unwell = []
    for key, model in (("model", module.model.vlm.model), ("segmenter", module.model.segmenter.model)):
        path = patient.config[key].get("path")
        kind = "random by design" if path is None else f"of {path}"
        for name, part in _parts(model):
            share = constant_share(part)
            facts["parts"][f"{key}.{name}"] = {"constant_vectors": share, "weights": kind}
            if path is not None and share is not None and share > _FRESH:
                unwell.append(f"{key}.{name}")
        said += f"; {key}: {kind}"
        if path is not None and Path(path).is_dir():
            found, asked = in_folder(model, Path(path), patient.config[key].get("dtype"))
            facts[f"{key}_in_folder"] = {"found": found, "tensors": asked}
            said += f", {found} of {asked} tensors are the folder's"
            if asked and found < asked // 2:
                fix = f"{key}.path={path}: loaded without an error, and changed since; is something built over it?"
                return Finding(False, said, fix, facts)
    if unwell and not patient.allow_random:
        fix = f"these weights were never trained: {', '.join(unwell)}. Give a trained folder, or allow_random=true"
        return Finding(False, f"{said}; norms and biases are all as a fresh model has them", fix, facts)
    if not trained:
        return Finding(False, said, "nothing trains: look at model.freeze_patterns, segmenter.freeze_patterns", facts)
    checkpoint = _load_checkpoint(patient, module)
    if checkpoint is not None:
        facts["checkpoint"], patient.factor = str(checkpoint), 1.0
        said += f"; then {checkpoint}, of which the losses must only not rise below"
    return Finding(True, said, facts=facts)


def _load_checkpoint(patient: Patient, module: nn.Module) -> Path | None:
    """The weights of `checkpoint=…` into the module, as a resumed run has them. Raises CheckpointError."""
    given = patient.config.values.get("checkpoint")
    if given is None:
        return None
    from maskcap.cli.build import clear_errors
    from maskcap.cli.runs import resume_from
    from maskcap.training.checkpoints.frozen import fill_in_frozen
    from maskcap.training.checkpoints.reading import read_checkpoint

    path = resume_from(given, patient.folder, patient.config["paths"]["runs"])
    if path is not None:
        state = read_checkpoint(path)
        fill_in_frozen(state, module)
        with clear_errors(path):
            module.load_state_dict(state["state_dict"])
    return path


def constant_share(part: nn.Module) -> float | None:
    """The share of a module's vectors whose numbers are all the same, without adapters; None for fewer than two."""
    vectors = [
        weight
        for name, weight in part.named_parameters()
        if weight.ndim == 1 and weight.numel() > 1 and "lora_" not in name
    ]
    if len(vectors) < 2:
        return None
    return sum(bool(vector.min() == vector.max()) for vector in vectors) / len(vectors)


def in_folder(model: nn.Module, folder: Path, dtype: str | None) -> tuple[int, int]:
    """(how many of the model's weights begin with numbers that a tensor in the folder begins with, how many weights).

    By their numbers, not by name: libraries rename weights while they load them. Adapters and what begins with one and
    the same number are left out. dtype: what the folder's were cast to. (0, 0) for a folder without safetensors.
    """
    there = {_mark(value, dtype) for value in _beginnings(folder)}
    if not there:
        return 0, 0
    own = [_beginning(weight.detach()) for name, weight in model.named_parameters() if "lora_" not in name]
    own = [numbers for numbers in own if bool((numbers != numbers[:1]).any())]
    return sum(_mark(numbers, None) in there for numbers in own), len(own)


def _beginnings(folder: Path) -> Iterator[torch.Tensor]:
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                slices = opened.get_slice(name)
                yield _beginning(slices[0:1] if len(slices.get_shape()) > 1 else opened.get_tensor(name))


def _beginning(weight: torch.Tensor) -> torch.Tensor:
    rows = weight[:1] if weight.ndim > 1 else weight
    return rows.flatten()[:_NUMBERS].cpu()


def _mark(numbers: torch.Tensor, dtype: str | None) -> bytes:
    cast = numbers if dtype is None else numbers.to(getattr(torch, dtype))
    return cast.float().numpy().tobytes()


def _parts(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a Hugging Face model: vision tower, projector, language model; encoder and decoders of SAM2."""
    inner = getattr(model, "model", None)
    yield from (inner if isinstance(inner, nn.Module) else model).named_children()
