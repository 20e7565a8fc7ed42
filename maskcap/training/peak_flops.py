"""What a device could do at most: the denominator of model FLOPs utilisation (MFU).

FLOP/s of dense products from NVIDIA's data sheets (those that quote sparsity are halved), at the boost clock and the
card's full power: a card that is throttled or capped cannot reach them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Peaks:
    """FLOP/s of float16 and bfloat16 on tensor cores with float32 sums, of TF32, and of float32 without tensor cores.

    bfloat16: whether the tensor cores know it. tf32: None where they do not know that.
    """

    half: float
    tf32: float | None
    fp32: float
    bfloat16: bool = True


# The words that a device's name must hold, the first match counts: longer names before shorter ones.
PEAKS: dict[str, Peaks] = {
    "H200 NVL": Peaks(835.5e12, 417.5e12, 60e12),
    "H200": Peaks(989.4e12, 494.7e12, 66.9e12),
    "GH200": Peaks(989.4e12, 494.7e12, 66.9e12),
    "H100 NVL": Peaks(835.5e12, 417.5e12, 60e12),
    "H100 PCIe": Peaks(756e12, 378e12, 51.2e12),
    "H100": Peaks(989.4e12, 494.7e12, 66.9e12),
    "A100": Peaks(312e12, 156e12, 19.5e12),
    "A40": Peaks(149.7e12, 74.8e12, 37.4e12),
    "A10": Peaks(125e12, 62.5e12, 31.2e12),
    "L40S": Peaks(362e12, 183e12, 91.6e12),
    "L40": Peaks(181e12, 90.5e12, 90.5e12),
    "L4": Peaks(121e12, 60e12, 30.3e12),
    "RTX A6000": Peaks(154.8e12, 77.4e12, 38.7e12),
    "RTX 4090": Peaks(165.2e12, 82.6e12, 82.6e12),
    "RTX 3090": Peaks(71e12, 35.6e12, 35.6e12),
    "V100 PCIE": Peaks(112e12, None, 14e12, bfloat16=False),
    "V100": Peaks(125e12, None, 15.7e12, bfloat16=False),
    "T4": Peaks(65e12, None, 8.1e12, bfloat16=False),
}
_OTHER_CARDS = {"MIG", "LAPTOP", "TI", "D"}  # a slice of a card, or another card of the same number


def peak_flops(device: str, precision: str, tf32: bool = False) -> float | None:
    """FLOP/s of `device` (as `torch.cuda.get_device_name` calls it), None where it is not known.

    precision: Lightning's, e.g. `bf16-mixed` or `32-true`. tf32: whether float32 products may run as TF32, which is so
    when `torch.get_float32_matmul_precision()` is not `highest`.
    """
    peaks = _find(device)
    if peaks is None:
        return None
    if precision.startswith("bf16"):
        return peaks.half if peaks.bfloat16 else None
    if precision.startswith("16"):
        return peaks.half
    if precision.startswith("32"):
        return peaks.tf32 if tf32 and peaks.tf32 is not None else peaks.fp32
    return None


def _find(device: str) -> Peaks | None:
    words = set(re.split(r"[\s\-_]+", device.upper()))
    if words & _OTHER_CARDS:
        return None
    return next((peaks for name, peaks in PEAKS.items() if set(name.upper().split()) <= words), None)
