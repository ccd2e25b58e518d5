"""How much of a CUDA device's arithmetic a training used: MFU and HFU (arXiv 2204.02311, appendix B).

Model FLOPs utilisation counts the operations that the step needs, hardware FLOPs utilisation also those that
checkpointing repeats; `trainers/meters/work.py` states the convention. Both are shares of the device's peak
in the trial's own arithmetic: of its datasheet's, or of a matrix product measured on it where it is not
listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from sweeper.contract.config import Config
from sweeper.contract.speed import Speed
from trainers.data.batches import Plan, batch_sizes
from trainers.meters.ceilings import DTYPES, measured_ceiling, product_flops_per_s
from trainers.meters.peaks import is_slice, peak_flops
from trainers.meters.work import step_work


def utilization(
    model: nn.Module,
    optimizer: Optimizer,
    config: Config,
    plan: Plan,
    speed: Speed,
    device: torch.device,
    cache_dir: Path | None = None,
) -> dict[str, float | None]:
    """`mfu` and `hfu` of the steady state; None on a CPU, on a slice of a GPU, and without a speed.

    `cache_dir`: where the measured peak of an unlisted device is kept.
    """
    if device.type != "cuda" or speed.padded_tokens_per_s is None:
        return {"mfu": None, "hfu": None}
    peak = _peak_of(device, config.arithmetic, cache_dir)
    if peak is None:
        return {"mfu": None, "hfu": None}
    return shares(
        step_work(model, optimizer, config, *_tokens(config, plan)), speed.padded_tokens_per_s, peak
    )


def _peak_of(device: torch.device, arithmetic: str, cache_dir: Path | None) -> float | None:
    name = torch.cuda.get_device_name(device)
    listed = peak_flops(name, arithmetic)
    if listed is not None or is_slice(name) or arithmetic not in DTYPES:
        return listed
    return measured_ceiling(cache_dir, name, arithmetic, lambda: product_flops_per_s(device, arithmetic))


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
