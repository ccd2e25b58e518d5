"""Shares of a device's peak: of the right device, and of the right operations."""

from __future__ import annotations

import pytest

from trainers.meters.utilization import peak_flops, shares


def test_a_device_is_known_by_its_own_name_alone() -> None:
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16_pure") == 989.4e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert peak_flops("NVIDIA A10G", "bf16") is None and peak_flops("Tesla V100-SXM2-16GB", "bf16") is None


def test_repeated_operations_count_for_the_hardware_alone() -> None:
    work = {"flops": 8e6, "model_flops": 6e6, "padded_tokens": 40.0}
    assert shares(work, 20, 12e6) == {"mfu": pytest.approx(0.25), "hfu": pytest.approx(8 / 24)}
