"""What a trial measures: part of the contract between driver and trial. Standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.contract.metrics import (
    COUNT,
    CUDA,
    ENERGY,
    LOSS,
    MEMORY,
    RATE,
    SHARE,
    SIZE,
    STATE,
    TIME,
    Metric,
    measured,
)  # fmt: skip


@dataclass(frozen=True)
class Measurements:
    """What a finished trial measured: the table of metrics.

    Each field says what it is, how it is written, which way is better, and what it needs. The names are those
    of the records, of exports and, but for memory, of MLflow.
    """

    tokens_per_s: float | None = measured(
        "non-padding tokens of an optimizer step over its time: median over the steps after the warm-up",
        RATE, heading="tokens/s", label="throughput", is_higher_better=True, is_probed=True, is_on_card=True,
    )  # fmt: skip
    padded_tokens_per_s: float | None = measured(
        "as tokens_per_s with padding counted: what the device really computed",
        RATE, heading="padded tokens/s", is_higher_better=True, is_probed=True,
    )  # fmt: skip
    step_time_s: float | None = measured(
        "one optimizer step from device idle to device idle (fetching its batches, forward, backward, "
        "clipping, update): median over the steps after `trial.warmup_steps`",
        TIME, is_probed=True,
    )  # fmt: skip
    step_time_p25_s: float | None = measured("25th percentile of the optimizer step's time", TIME)
    step_time_p75_s: float | None = measured("75th percentile of the optimizer step's time", TIME)
    mfu: float | None = measured(
        "operations that the steps needed, as a share of what the device could do (model FLOPs utilisation)",
        SHARE, is_higher_better=True, needs=CUDA,
    )  # fmt: skip
    hfu: float | None = measured(
        "as mfu with the operations that checkpointing repeats (hardware FLOPs utilisation); above 0.75 the "
        "measurement is wrong, and the trial is not ranked",
        SHARE, is_higher_better=True, needs=CUDA,
    )  # fmt: skip
    steps: int | None = measured("optimizer steps taken", is_on_card=True)
    measured_steps: int | None = measured(
        "optimizer steps behind the speed figures: `steps` less the warm-up"
    )
    skipped_steps: int | None = measured("steps that fp16 loss scaling skipped because a gradient overflowed")
    tokens: int | None = measured("non-padding tokens trained on", is_on_card=True)
    padded_tokens: int | None = measured("tokens trained on, padding included")
    peak_memory_bytes: int | None = measured(
        "highest memory of load, training and evaluation; on CPU the resident high-water mark above the "
        "level at trial start, on CUDA the allocator's peak (`definitions` in `result.json` says which)",
        MEMORY, heading="peak MiB", label="peak memory", is_probed=True, is_on_card=True,
    )  # fmt: skip
    peak_memory_load_bytes: int | None = measured(
        "highest memory while model, adapter and optimizer were built",
        MEMORY, heading="peak load MiB", is_probed=True,
    )  # fmt: skip
    peak_memory_train_bytes: int | None = measured(
        "highest memory while training", MEMORY, heading="peak train MiB", is_probed=True
    )
    peak_memory_eval_bytes: int | None = measured(
        "highest memory while evaluating", MEMORY, heading="peak eval MiB"
    )
    peak_memory_allocated_bytes: int | None = measured(
        "highest sum of live tensors in the caching allocator",
        MEMORY, heading="peak allocated MiB", is_probed=True, needs=CUDA,
    )  # fmt: skip
    peak_memory_reserved_bytes: int | None = measured(
        "highest sum of segments that the caching allocator held",
        MEMORY, heading="peak reserved MiB", is_probed=True, needs=CUDA,
    )  # fmt: skip
    device_memory_bytes: int | None = measured(
        "memory of this process on the device as NVML sees it, context included",
        MEMORY, is_probed=True, needs=CUDA,
    )  # fmt: skip
    predicted_memory_bytes: int | None = measured(
        "predicted `peak_memory_bytes`, before anything was loaded", MEMORY
    )
    corrected_memory_bytes: int | None = measured(
        "the same after what earlier trials of the study taught", MEMORY
    )
    train_loss: float | None = measured(
        "loss per target token over the last quarter of the steps", LOSS, is_on_card=True
    )
    eval_loss_before: float | None = measured(
        "loss per target token over the whole evaluation split before the first step", LOSS, is_on_card=True
    )
    eval_loss: float | None = measured(
        "loss per target token over the whole evaluation split after the last step",
        LOSS, label="evaluation loss", is_on_card=True,
    )  # fmt: skip
    overfit_gap: float | None = measured("`eval_loss - train_loss`", LOSS, is_on_card=True)
    general_loss_before: float | None = measured(
        "loss per target token on the general corpus with the adapter off, or before a full fine-tune",
        LOSS, needs="evaluate.general",
    )  # fmt: skip
    general_loss: float | None = measured(
        "loss per target token on the general corpus after the last step", LOSS, needs="evaluate.general"
    )
    forgetting: float | None = measured(
        "how much the loss on the first `evaluate.general` texts of the general corpus rose "
        "(`data.general_path` for text of your own): `general_loss - general_loss_before`",
        LOSS, is_on_card=True, needs="evaluate.general",
    )  # fmt: skip
    exact_match: float | None = measured(
        "share of the `evaluate.generate` questions whose greedy answer is the completion, letter by letter "
        "but for white space at the ends",
        SHARE, is_higher_better=True, is_on_card=True, needs="evaluate.generate",
    )  # fmt: skip
    hallucination_rate: float | None = measured(
        "share of the questions marked `answerable: false` among these to which an answer was invented: one "
        "that is none of their completions",
        SHARE, is_on_card=True, needs="evaluate.generate",
    )  # fmt: skip
    trainable_parameters: int | None = measured(
        "parameters that the optimizer updates", is_probed=True, is_on_card=True
    )
    total_parameters: int | None = measured(
        "all parameters; a packed 4-bit weight counts each of its logical elements"
    )
    trainable_share: float | None = measured(
        "`trainable_parameters / total_parameters`", SHARE, is_on_card=True
    )
    optimizer_state_bytes: int | None = measured(
        "bytes of the optimizer's own state tensors after the last step", SIZE, is_probed=True
    )
    optimizer_state_bytes_per_parameter: float | None = measured(
        "`optimizer_state_bytes / trainable_parameters`, from the optimizer's own tensors",
        STATE, heading="state B/param",
    )  # fmt: skip
    adapter_bytes: int | None = measured(
        "size of the saved adapter weights on disk; unknown for a full fine-tune", SIZE, is_on_card=True
    )
    load_time_s: float | None = measured("wall time to build data, model, adapter and optimizer", TIME)
    train_time_s: float | None = measured(
        "wall time of all optimizer steps, warm-up included, evaluation excluded", TIME, is_on_card=True
    )
    eval_time_s: float | None = measured("wall time of all evaluations", TIME)
    total_time_s: float | None = measured("wall time from the start of the trial's own work to its end", TIME)
    energy_j: float | None = measured(
        "energy of the device while training, by NVML", ENERGY, is_on_card=True, needs=CUDA
    )


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


DERIVED = {
    "energy_per_token_j": Metric(
        "joules per non-padding token: `energy_j / tokens`",
        ENERGY, is_probed=True, needs=CUDA, derive=_energy_per_token_j,
    ),
    "cost_per_million_tokens": Metric(
        "price of a million non-padding tokens at the median speed, in the currency of "
        "`hardware.price_per_hour`",
        COUNT, is_probed=True, needs=f"hardware.{PRICE}", derive=_cost_per_million_tokens,
    ),
}  # fmt: skip
"""Figures made of measurements and the configuration."""

METRICS: dict[str, Metric] = {
    name: metric.named(name)
    for name, metric in (
        *((item.name, item.metadata["metric"]) for item in dataclasses.fields(Measurements)),
        *DERIVED.items(),
    )
}
"""Every figure of a trial by its name: what can be an objective, a constraint, exported and logged."""
MAIN_METRICS = ("tokens_per_s", "peak_memory_bytes", "eval_loss")
"""What a trial is told in first: speed, memory, quality."""
