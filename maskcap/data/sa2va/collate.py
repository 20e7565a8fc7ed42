"""Samples → the dict that Sa2VA's model takes, and what the loaders know of it besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from maskcap.data.bad_samples import BadSample
from maskcap.data.sa2va.tokens import IGNORED
from maskcap.errors import DataError

PAD = 0  # xtuner's; `attention_mask` tells what is text


def collate_sa2va(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ragged, as upstream's collate function: text is padded on the right, images and masks are lists.

    input_ids, labels, position_ids: int64 (B, L). attention_mask: bool (B, L), False on padding.
    pixel_values:     B tensors float32 (N_b, 3, S, S).
    frames_per_batch: for each sample that has masks, how many images the segmenter gets of it.
    g_pixel_values:   these images, uint8 (3, 1024, 1024) each; only where a sample has any.
    masks:            a tensor uint8 (n_b·F_b, H_b, W_b) for each sample that has any; only where one has.
    prompt_masks:     a tensor uint8 (m_b, G, G) for each sample that has any; only where one has.
    vp_overall_mask:  bool (Σ N_b,), over the rows of all samples; only with `prompt_masks`.
    keys:             B record keys, which the model does not read.

    xtuner's runner wants it as `{"data": batch, "data_samples": None}`. Raises DataError for an empty list.
    """
    if not samples:
        raise DataError("cannot collate an empty list of samples")
    input_ids = _padded(samples, "input_ids", PAD)
    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])
    positions_L = torch.arange(input_ids.shape[1])
    batch: dict[str, Any] = {
        "input_ids": input_ids,
        "labels": _padded(samples, "labels", IGNORED),
        "attention_mask": positions_L < lengths[:, None],
        "position_ids": positions_L.repeat(len(samples), 1),
        "pixel_values": [sample["pixel_values"] for sample in samples],
        "frames_per_batch": [len(sample["g_pixel_values"]) for sample in samples if "g_pixel_values" in sample],
        "keys": [sample["key"] for sample in samples],
    }
    if batch["frames_per_batch"]:
        batch["g_pixel_values"] = [image for sample in samples for image in sample.get("g_pixel_values", ())]
        batch["masks"] = [sample["masks"] for sample in samples if "masks" in sample]
    prompts = [sample["prompt_masks"] for sample in samples if "prompt_masks" in sample]
    if prompts:
        batch["prompt_masks"] = prompts
        batch["vp_overall_mask"] = torch.cat([_marked_rows(sample) for sample in samples])
    return batch


def _padded(samples: Sequence[Mapping[str, Any]], name: str, value: int) -> torch.Tensor:
    return pad_sequence([sample[name] for sample in samples], batch_first=True, padding_value=value)


def _marked_rows(sample: Mapping[str, Any]) -> torch.Tensor:
    return sample.get("vp_overall_mask", torch.zeros(len(sample["pixel_values"]), dtype=torch.bool))


@dataclass(frozen=True)
class Sa2VABatch:
    """A collated dict on its way through a loader, which hands over `plain()`; the other fields as in Batch."""

    data: dict[str, Any]
    keys: list[str]
    tiny_regions: int = 0
    padding: tuple[bool, ...] = ()
    bad: tuple[BadSample, ...] = ()

    @staticmethod
    def of(samples: Sequence[Mapping[str, Any]]) -> Sa2VABatch:
        """Collate them. Raises as `collate_sa2va`."""
        tiny = sum(sample["tiny_regions"] for sample in samples)
        return Sa2VABatch(collate_sa2va(samples), [sample["key"] for sample in samples], tiny)

    def is_padding(self, sample: int) -> bool:
        """Whether this sample is there for its number alone."""
        return bool(self.padding) and self.padding[sample]

    def plain(self) -> dict[str, Any]:
        """The dict; where samples only fill a place, with `padding`, B flags."""
        return self.data | {"padding": list(self.padding)} if self.padding else self.data

    def pin_memory(self) -> Sa2VABatch:
        """The same in page-locked memory; torch's DataLoader calls it when `pin_memory` is on."""
        return replace(self, data=moved(self.data, lambda tensor: tensor.pin_memory()))


def moved(data: Mapping[str, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """The dict with `change` applied to its tensors, in lists too."""

    def one(value: Any) -> Any:
        """A value of the dict, or of a list in it."""
        return change(value) if isinstance(value, torch.Tensor) else value

    return {
        name: [one(each) for each in value] if isinstance(value, list) else one(value) for name, value in data.items()
    }
