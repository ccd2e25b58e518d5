"""The peak arithmetic of devices, from their datasheets."""

from __future__ import annotations

import re
from typing import NamedTuple

TERA = 1e12


class Peak(NamedTuple):
    """Dense operations per second, in units of 10^12; products of 16-bit numbers summed in fp32."""

    name: str
    """Pattern of the whole name that CUDA or ROCm gives, less the vendor's words."""
    bf16: float | None
    fp16: float
    fp32: float
    source: str

    def of(self, arithmetic: str) -> float | None:
        """Operations per second in `Config.arithmetic`; TF32 is half of bfloat16 in each of these sources."""
        half = self.bf16 / 2 if self.bf16 else None
        found = {"bf16": self.bf16, "fp16": self.fp16, "fp32": self.fp32, "tf32": half}.get(arithmetic)
        return found * TERA if found else None


PEAKS = (
    Peak(r"B200", 2250, 2250, 75, "NVIDIA HGX B200 datasheet"),
    Peak(r"GH200 \d+GB?.*", 989.4, 989.4, 67, "NVIDIA GH200 datasheet"),
    Peak(r"H200", 989.4, 989.4, 67, "NVIDIA H200 datasheet, SXM"),
    Peak(r"H200 NVL", 835.5, 835.5, 60, "NVIDIA H200 datasheet, NVL"),
    Peak(r"H100 80GB HBM3", 989.4, 989.4, 67, "NVIDIA H100 datasheet, SXM"),
    Peak(r"H100 PCIe", 756, 756, 51, "NVIDIA H100 datasheet, PCIe"),
    Peak(r"H100 NVL", 835, 835, 60, "NVIDIA H100 datasheet, NVL"),
    Peak(r"H20", 148, 148, 44, "NVIDIA H20 datasheet"),
    Peak(r"A100-SXM4-(40|80)GB", 312, 312, 19.5, "NVIDIA A100 datasheet"),
    Peak(r"A100(-PCIE-40GB| 80GB PCIe)", 312, 312, 19.5, "NVIDIA A100 datasheet"),
    Peak(r"A40", 149.7, 149.7, 37.4, "NVIDIA A40 datasheet"),
    Peak(r"A30", 165, 165, 10.3, "NVIDIA A30 datasheet"),
    Peak(r"A10", 125, 125, 31.2, "NVIDIA A10 datasheet"),
    Peak(r"A10G", 70, 70, 31.5, "NVIDIA A10G datasheet"),
    Peak(r"L40S", 362.05, 362.05, 91.6, "NVIDIA L40S datasheet"),
    Peak(r"L40", 181.05, 181.05, 90.5, "NVIDIA L40 datasheet"),
    Peak(r"L4", 121, 121, 30.3, "NVIDIA L4 datasheet"),
    Peak(r"RTX 6000 Ada Generation", 364.2, 364.2, 91.1, "NVIDIA Ada architecture white paper"),
    Peak(r"RTX A6000", 154.8, 154.8, 38.7, "NVIDIA GA102 architecture white paper"),
    Peak(r"RTX 5090", 209.5, 209.5, 104.8, "NVIDIA RTX Blackwell architecture white paper"),
    Peak(r"RTX 4090", 165.2, 165.2, 82.6, "NVIDIA Ada architecture white paper"),
    Peak(r"RTX 3090", 71, 71, 35.6, "NVIDIA GA102 architecture white paper"),
    Peak(r"V100-SXM2-(16|32)GB", None, 125, 15.7, "NVIDIA V100 datasheet, SXM2"),
    Peak(r"V100-PCIE-(16|32)GB", None, 112, 14, "NVIDIA V100 datasheet, PCIe"),
    Peak(r"T4", None, 65, 8.1, "NVIDIA T4 datasheet"),
    Peak(r"MI300X", 1307.4, 1307.4, 163.4, "AMD Instinct MI300X datasheet"),
)
VENDORS = re.compile(r"^((NVIDIA|Tesla|GeForce|AMD|Instinct) )*")


def peak_flops(device_name: str, arithmetic: str) -> float | None:
    """Peak of a device by its whole name: a variant or a slice is another one. None where it is unknown."""
    name = VENDORS.sub("", device_name)
    found = next((peak for peak in PEAKS if re.fullmatch(peak.name, name)), None)
    return found.of(arithmetic) if found else None


def is_slice(device_name: str) -> bool:
    """Whether it is a part of a GPU (MIG), whose peak no datasheet gives."""
    return " MIG " in device_name
