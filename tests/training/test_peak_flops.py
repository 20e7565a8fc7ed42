from __future__ import annotations

import pytest

from maskcap.training.peak_flops import PEAKS, peak_flops


@pytest.mark.parametrize(
    "device, teraflops",
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_cards_by_the_names_that_cuda_gives_them(device: str, teraflops: float):
    assert peak_flops(device, "bf16-mixed") == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        "NVIDIA A10G",  # neither an A10 nor an A100
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "",
    ],
)
def test_what_is_not_in_the_table_is_not_guessed(device: str):
    assert peak_flops(device, "bf16-mixed") is None


def test_precision_chooses_the_column():
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bf16-true") == 312e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "32-true") == 19.5e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "32-true", tf32=True) == 156e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "64-true") is None
    assert peak_flops("Tesla V100-SXM2-16GB", "16-mixed") == 125e12
    assert peak_flops("Tesla V100-SXM2-16GB", "bf16-mixed") is None  # no tensor cores for it
    assert peak_flops("Tesla V100-PCIE-16GB", "16-mixed") == 112e12
    assert peak_flops("Tesla T4", "32-true", tf32=True) == 8.1e12


def test_every_row_is_found_under_its_own_name():
    assert all(peak_flops(f"NVIDIA {name}", "16-mixed") == peaks.half for name, peaks in PEAKS.items())
