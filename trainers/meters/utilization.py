"""How much of a CUDA device's arithmetic a training used: MFU and HFU (arXiv 2204.02311, appendix B).

Model FLOPs utilisation counts the operations that the step needs, hardware FLOPs utilisation also those that
checkpointing repeats; `trainers/meters/work.py` states the convention. Both are shares of the device's peak
in the arithmetic of `precision`. A device that is not listed has no known peak, and its shares are None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from sweeper.contract.config import Config
from sweeper.contract.speed import Speed
from trainers.data.batches import Plan, batch_sizes
from trainers.meters.work import step_work

TERA = 1e12
PEAKS: dict[str, dict[str, float]] = {
    "B200": {"bf16": 2250 * TERA, "fp16": 2250 * TERA, "fp32": 75 * TERA},  # NVIDIA HGX B200 datasheet
    "H200": {"bf16": 989.4 * TERA, "fp16": 989.4 * TERA, "fp32": 67 * TERA},  # NVIDIA H200 datasheet
    "H100 PCIe": {"bf16": 756 * TERA, "fp16": 756 * TERA, "fp32": 51 * TERA},  # NVIDIA H100 datasheet
    "H100 NVL": {"bf16": 835 * TERA, "fp16": 835 * TERA, "fp32": 60 * TERA},  # NVIDIA H100 NVL datasheet
    "H100": {"bf16": 989.4 * TERA, "fp16": 989.4 * TERA, "fp32": 67 * TERA},  # NVIDIA H100 datasheet, SXM
    "A100": {"bf16": 312 * TERA, "fp16": 312 * TERA, "fp32": 19.5 * TERA},  # NVIDIA A100 datasheet
    "A40": {"bf16": 149.7 * TERA, "fp16": 149.7 * TERA, "fp32": 37.4 * TERA},  # NVIDIA A40 datasheet
    "A10": {"bf16": 125 * TERA, "fp16": 125 * TERA, "fp32": 31.2 * TERA},  # NVIDIA A10 datasheet
    "L40S": {"bf16": 362.05 * TERA, "fp16": 362.05 * TERA, "fp32": 91.6 * TERA},  # NVIDIA L40S datasheet
    "L4": {"bf16": 121 * TERA, "fp16": 121 * TERA, "fp32": 30.3 * TERA},  # NVIDIA L4 datasheet
    "V100": {"fp16": 125 * TERA, "fp32": 15.7 * TERA},  # NVIDIA V100 datasheet, SXM2
    "T4": {"fp16": 65 * TERA, "fp32": 8.1 * TERA},  # NVIDIA T4 datasheet
}
"""Device -> arithmetic -> dense operations per second, products of 16-bit numbers summed in fp32."""


def peak_flops(device_name: str, precision: str) -> float | None:
    """Peak of a device by the name that CUDA gives it; None where it is not known."""
    arithmetic = "bf16" if precision == "bf16_pure" else precision
    words = {
        match for match in PEAKS if re.search(rf"(?<![A-Z0-9]){re.escape(match)}(?![A-Z0-9])", device_name)
    }
    if not words:
        return None
    return PEAKS[max(words, key=len)].get(arithmetic)


def utilization(
    model: nn.Module, optimizer: Optimizer, config: Config, plan: Plan, speed: Speed, device: torch.device
) -> dict[str, float | None]:
    """`mfu` and `hfu` of the steady state; None on a CPU, on an unknown device, and without a speed."""
    on_cuda = device.type == "cuda"
    peak = peak_flops(torch.cuda.get_device_name(device), config.precision) if on_cuda else None
    if peak is None or speed.padded_tokens_per_s is None:
        return {"mfu": None, "hfu": None}
    return shares(
        step_work(model, optimizer, config, *_tokens(config, plan)), speed.padded_tokens_per_s, peak
    )


def _tokens(config: Config, plan: Plan) -> tuple[float, float]:
    """Of an average step, and of an average sequence. Padding is computed too, so it counts here."""
    tokens = sum(plan.padded_tokens) / plan.steps
    return tokens, tokens / batch_sizes(config.batch).effective


def shares(
    work: Mapping[str, float], padded_tokens_per_s: float, peak_flops_per_s: float
) -> dict[str, float | None]:
    """The two shares, from the work of a step (`trainers.memory.work.step_work`) and a speed."""
    steps_per_s = padded_tokens_per_s / work["padded_tokens"]
    return {
        "mfu": work["model_flops"] * steps_per_s / peak_flops_per_s,
        "hfu": work["flops"] * steps_per_s / peak_flops_per_s,
    }
