"""What a trial measures: part of the contract between driver and trial. Standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measurements:
    """What a finished trial measured. The field names are those of the MLflow metrics."""

    tokens_per_s: float | None = None
    """Non-padding tokens per second: the median over optimizer steps after the warm-up steps."""
    padded_tokens_per_s: float | None = None
    """The same with padding counted: what the device really computed."""
    step_time_s: float | None = None
    """Median wall time of one optimizer step, device idle to device idle, warm-up excluded."""
    step_time_p25_s: float | None = None
    """25th percentile of the optimizer step's time."""
    step_time_p75_s: float | None = None
    """75th percentile of the optimizer step's time."""
    mfu: float | None = None
    """CUDA only: operations that the steps needed, as a share of what the device could do (model FLOPs
    utilisation)."""
    hfu: float | None = None
    """CUDA only: the same with operations that checkpointing repeats (hardware FLOPs utilisation). Above 0.75
    the measurement is wrong, and the trial is not ranked."""
    steps: int | None = None
    """Optimizer steps taken."""
    measured_steps: int | None = None
    """Optimizer steps behind the speed figures: `steps` less the warm-up."""
    skipped_steps: int | None = None
    """Steps that fp16 loss scaling skipped because a gradient overflowed."""
    tokens: int | None = None
    """Non-padding tokens trained on."""
    padded_tokens: int | None = None
    """Tokens trained on, padding included."""
    peak_memory_bytes: int | None = None
    """Highest memory over all phases; `definitions` in the result says how it was read."""
    peak_memory_load_bytes: int | None = None
    """Highest memory while model, adapter and optimizer were built."""
    peak_memory_train_bytes: int | None = None
    """Highest memory while training."""
    peak_memory_eval_bytes: int | None = None
    """Highest memory while evaluating."""
    peak_memory_allocated_bytes: int | None = None
    """CUDA only: highest sum of live tensors in the caching allocator."""
    peak_memory_reserved_bytes: int | None = None
    """CUDA only: highest sum of segments that the caching allocator held."""
    device_memory_bytes: int | None = None
    """CUDA only: memory of this process on the device as NVML sees it, context included."""
    predicted_memory_bytes: int | None = None
    """Predicted `peak_memory_bytes`, before anything was loaded."""
    corrected_memory_bytes: int | None = None
    """The same after what earlier trials of the study taught."""
    train_loss: float | None = None
    """Token-weighted loss over the last quarter of the steps."""
    eval_loss_before: float | None = None
    """Token-weighted loss on the evaluation split before the first step."""
    eval_loss: float | None = None
    """Token-weighted loss on the evaluation split after the last step."""
    overfit_gap: float | None = None
    """`eval_loss - train_loss`."""
    general_loss_before: float | None = None
    """Token-weighted loss on the general corpus with the adapter off, or before a full fine-tune."""
    general_loss: float | None = None
    """Token-weighted loss on the general corpus after the last step."""
    forgetting: float | None = None
    """`general_loss - general_loss_before`: above 0, general language was forgotten."""
    exact_match: float | None = None
    """Share of the `evaluate.generate` questions whose greedy answer is the completion, letter by
    letter but for white space at the ends."""
    hallucination_rate: float | None = None
    """Share of the unanswerable ones among these questions to which an answer was invented: one that
    is none of their completions."""
    trainable_parameters: int | None = None
    """Parameters that the optimizer updates."""
    total_parameters: int | None = None
    """All parameters; a packed 4-bit weight counts each of its logical elements."""
    trainable_share: float | None = None
    """`trainable_parameters / total_parameters`."""
    optimizer_state_bytes: int | None = None
    """Bytes of the optimizer's own state tensors after the last step."""
    optimizer_state_bytes_per_parameter: float | None = None
    """`optimizer_state_bytes / trainable_parameters`."""
    adapter_bytes: int | None = None
    """Size of the saved adapter weights on disk; None for a full fine-tune."""
    load_time_s: float | None = None
    """Wall time to build data, model, adapter and optimizer."""
    train_time_s: float | None = None
    """Wall time of all optimizer steps, warm-up included, evaluation excluded."""
    eval_time_s: float | None = None
    """Wall time of all evaluations."""
    total_time_s: float | None = None
    """Wall time from the start of the trial's own work to its end."""
    energy_j: float | None = None
    """CUDA with NVML only: energy of the device while training."""


PRICE = "price_per_hour"
"""Option of `hardware` that costs are made of."""


def _energy_per_token_j(measured: Measurements, config: Mapping[str, Any]) -> float | None:
    if measured.energy_j is None or not measured.tokens:
        return None
    return measured.energy_j / measured.tokens


def _cost_per_million_tokens(measured: Measurements, config: Mapping[str, Any]) -> float | None:
    price_per_hour = config.get("hardware", {}).get(PRICE)
    if price_per_hour is None or not measured.tokens_per_s:
        return None
    return float(price_per_hour) / 3600 / measured.tokens_per_s * 1e6


DERIVED: dict[str, Callable[[Measurements, Mapping[str, Any]], float | None]] = {
    "energy_per_token_j": _energy_per_token_j,
    "cost_per_million_tokens": _cost_per_million_tokens,
}
"""Figures made of measurements and the configuration: joules per non-padding token, and the price of a
million of them at the median speed."""

METRICS = (*(item.name for item in dataclasses.fields(Measurements)), *DERIVED)
"""Every figure of a trial: what can be an objective, a constraint, exported and logged."""
MEASURED = frozenset(METRICS)
