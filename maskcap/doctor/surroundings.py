"""Versions and device, the data's first records, and whether a checkpoint can be kept."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import torch

from maskcap.doctor.every_kind import batch_of_every_kind
from maskcap.doctor.findings import Finding, Patient

if TYPE_CHECKING:
    from maskcap.data.batch import Batch

_BATCHES = 20  # looked through for one that has what the loops need
_ROOM = 3  # checkpoints that must fit on the disk: best, last, and the one that is being written


def check_device(patient: Patient) -> Finding:
    """The versions, and the device that `trainer` asks for; makes the trainer.

    A device that this machine lacks is Lightning's MisconfigurationException, which `clear_errors` turns around.
    """
    from maskcap.training.run_facts import code_version, machine, versions

    plugins = [*(patient.config["trainer"].get("plugins") or []), patient.config.build("checkpoints")]
    trainer = patient.config.build("trainer", callbacks=[], logger=False, enable_checkpointing=False, plugins=plugins)
    patient.trainer = trainer
    code, here = code_version(), machine()
    device = patient.device
    facts: dict[str, Any] = {"versions": versions(), "code": code, "machine": here, "device": str(device)}
    precision = str(trainer.precision)
    facts["precision"] = precision
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else here["processor"]
    said = f"torch {facts['versions']['torch']} on {device.type} ({name}), {precision}"
    if device.type == "cuda" and "bf16" in precision and not torch.cuda.is_bf16_supported():
        return Finding(False, said, f"{name} has no bfloat16: trainer.precision=32-true", facts)
    if device.type == "cpu" and torch.cuda.is_available():
        return Finding(True, f"{said}; this machine has a GPU too, which trainer=gpu uses", facts=facts)
    return Finding(True, said, facts=facts)


def check_data(patient: Patient) -> Finding:
    """Draws or finds the data, and loads a batch as training does; makes the batch.

    Where several sources have more than captioned regions, it has every kind of sample that their first records have.

    Raises ConfigError and DataError, which name the record.
    """
    from maskcap.cli.build import needs_own_format

    needs_own_format(patient.config)
    data = patient.config.build("data")
    data.prepare_data()
    data.setup("fit")
    sources = {name: len(source) for name, source in data.train_sources.items()}
    kinds: dict[str, list[str]] = {}
    if len(sources) > 1 and any(data.has_turns("train").values()):
        batch, kinds = batch_of_every_kind(data, patient.images)
        seen = 1
    else:
        loader = data.train_dataloader()
        try:
            batch, seen = _first_with_words(loader, _words_of(data))
        finally:
            data.teardown()
    moved = data.on_after_batch_transfer(batch.to(patient.device), 0)
    patient.data, patient.batch = data, moved
    captions = sum(caption is not None for caption in batch.caption)
    phrases = sum(phrase is not None for phrase in batch.phrase)
    facts = {"records": sources, "keys": batch.keys, "regions": len(batch.region_ids), "captions": captions}
    turns, frames = sum(map(len, batch.turns)), len(batch.frame_owner)
    facts |= {"phrases": phrases, "image_size": batch.image1.shape[-1], "batches_read": seen}
    facts |= {"turns": turns, "further_frames": frames, "without_image": sum(batch.blank)}
    facts |= {"kinds": kinds} if kinds else {}
    listed = ", ".join(f"{name} {count}" for name, count in sources.items())
    said = f"{listed} records; a batch of {len(batch.keys)} images, {len(batch.region_ids)} regions, "
    said += f"{captions} captions, {phrases} phrases"
    said += f", {turns} turns" if turns else ""
    said += f", {frames} further frames" if frames else ""
    said += f"; with {', '.join(sorted(set().union(*kinds.values())))}" if kinds else ""
    filled = moved.mask1.flatten(1).any(1).tolist()
    empty = sum(not (some or moved.is_empty(region)) for region, some in enumerate(filled))
    if not (batch.region_ids or turns) or empty:
        problem = f"{said}; {empty} masks are empty" if empty else f"{said}; no region and no turn at all"
        return Finding(False, problem, f"maskcap check looks at every record; this batch's are {batch.keys}", facts)
    return Finding(True, said, facts=facts)


def _words_of(data: Any) -> set[str]:
    """What a batch may hold, by what some training source has: captions, phrases, turns."""
    having = {"captions": data.has_captions, "phrases": data.has_phrases, "turns": data.has_turns}
    return {name for name, of_sources in having.items() if any(of_sources("train").values())}


def _first_with_words(loader: Any, wanted: set[str]) -> tuple[Batch, int]:
    """The first batch with all that is wanted, among the first ones, and how many were read; else the first of those
    with most of it."""
    best: tuple[int, Batch] | None = None
    seen = 0
    for batch in loader:
        seen += 1
        there = {"captions": any(batch.caption), "phrases": any(batch.phrase), "turns": any(batch.turns)}
        held = sum(there[name] for name in wanted)
        if best is None or held > best[0]:
            best = held, batch
        if held == len(wanted) or seen == _BATCHES:
            break
    assert best is not None  # an empty source is a DataError
    return best[1], seen


def check_checkpoint(patient: Patient) -> Finding:
    """Writes the weights to this command's folder as training does, reads them back and compares; removes them."""
    from maskcap.errors import CheckpointError
    from maskcap.training.checkpoints.frozen import fill_in_frozen, frozen_sources

    module, trainer = patient.need("module"), patient.need("trainer")
    folder = patient.folder / "checkpoints"
    state = {"state_dict": dict(module.state_dict()), "frozen_sources": frozen_sources(module)}
    size = sum(value.numel() * value.element_size() for value in state["state_dict"].values())
    try:
        patient.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(patient.folder).free
    except OSError as error:
        return Finding(False, f"{patient.folder} cannot be made: {error}", "set paths.runs to a folder that can")
    facts = {"folder": str(patient.folder), "megabytes": round(size / 1e6, 1), "free_megabytes": round(free / 1e6)}
    # AdamW's two states of what trains come on top
    trained = sum(value.numel() * value.element_size() for value in module.parameters() if value.requires_grad)
    needed = _ROOM * (size + 2 * trained)
    said = f"{size / 1e6:.0f} MB of weights, {free / 1e9:.1f} GB free under {patient.folder.parent}"
    if free < needed:
        return Finding(False, said, f"make room for {needed / 1e9:.1f} GB, or set paths.runs to another disk", facts)
    try:
        saver = trainer.strategy.checkpoint_io
        saver.save_checkpoint(dict(state), folder / "doctor.ckpt")
        again = saver.load_checkpoint(folder / "doctor.ckpt", map_location="cpu", weights_only=True)
        fill_in_frozen(again, module)
        read = again["state_dict"]
        lost = [name for name, value in state["state_dict"].items() if not _same(value, read.get(name))]
    except (OSError, CheckpointError) as error:
        return Finding(False, f"cannot be written or read: {error}", "set paths.runs to a folder that can", facts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if lost:
        return Finding(
            False, f"{said}; {len(lost)} of them came back changed, {lost[0]} first", "try another disk", facts
        )
    return Finding(True, f"{said}; written and read back the same", facts=facts)


def _same(written: torch.Tensor, read: torch.Tensor | None) -> bool:
    return read is not None and written.dtype == read.dtype and torch.equal(written.cpu(), read)
