"""Shares of a device's peak: of the right device, and of the right operations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainers.meters.ceilings import FILE, copied_bytes_per_s, measured_ceiling, product_flops_per_s
from trainers.meters.peaks import PEAKS, is_slice, peak_flops
from trainers.meters.utilization import shares


def test_a_device_is_known_by_its_own_name_alone() -> None:
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert peak_flops("NVIDIA A10G", "bf16") == 70e12 and peak_flops("Tesla V100-SXM2-16GB", "bf16") is None
    assert peak_flops("Tesla V100-PCIE-16GB", "fp16") == 112e12
    assert peak_flops("NVIDIA H200 NVL", "bf16") != peak_flops("NVIDIA H200", "bf16")
    assert peak_flops("NVIDIA GeForce RTX 4090", "tf32") == 82.6e12


@pytest.mark.parametrize(
    "name",
    ["NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 Laptop GPU"],
)
def test_a_slice_or_a_variant_is_another_device(name: str) -> None:
    assert peak_flops(name, "bf16") is None and is_slice(name) is ("MIG" in name)


def test_every_peak_names_its_source_and_is_possible() -> None:
    for peak in PEAKS:
        assert peak.source and peak.fp16 >= peak.fp32 and peak.bf16 in (None, peak.fp16)


def test_a_ceiling_is_measured_once_per_device(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    rates = [product_flops_per_s(cpu, "fp32", size=64), copied_bytes_per_s(cpu, 2**16)]
    assert min(rates) > 0
    first = measured_ceiling(tmp_path / "cache", "unlisted", "bf16", lambda: 5e12)
    assert first == measured_ceiling(tmp_path / "cache", "unlisted", "bf16", lambda: 7e12) == 5e12
    assert measured_ceiling(tmp_path / "cache", "unlisted", "fp16", lambda: 7e12) == 7e12
    assert (tmp_path / "cache" / FILE).exists()

    def fail() -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert measured_ceiling(tmp_path, "full", "bf16", fail) is None


def test_repeated_operations_count_for_the_hardware_alone() -> None:
    work = {"flops": 8e6, "model_flops": 6e6, "padded_tokens": 40.0}
    assert shares(work, 20, 12e6) == {"mfu": pytest.approx(0.25), "hfu": pytest.approx(8 / 24)}
