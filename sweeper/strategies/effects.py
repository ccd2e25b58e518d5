"""The cumulative effect of methods: a row per added one, against two baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeper.contract.trial import Outcome
from sweeper.study.records import TrialRecord

SIXTEEN_BIT = ("bf16", "fp16", "bf16_pure")
"""Precisions whose plain cell is a 16-bit baseline, the usual one first."""


def effects(
    records: Sequence[TrialRecord],
    added: Sequence[tuple[str, TrialRecord]],
    plain: Callable[[str], Mapping[str, str]],
) -> list[dict[str, Any]]:
    """Rows in the order in which methods were added. A ratio is None where a side was not measured: a
    baseline counts only where its resolved precision is the one that the ratio names.

    `memory_vs_…` says how many times less memory than that baseline, `speed_vs_…` how many times its
    throughput. `plain` gives the baseline cell of a precision.
    """
    fp32 = _measured(records, plain("fp32"), "fp32")
    found = (_measured(records, plain(name), name) for name in SIXTEEN_BIT)
    half = next((record for record in found if record), None)
    return [_row(name, record, fp32, half) for name, record in added]


def _measured(records: Sequence[TrialRecord], cell: Mapping[str, str], precision: str) -> TrialRecord | None:
    found = [
        record
        for record in records
        if record.spec.overrides == dict(cell) and record.spec.repeat == 0
        if record.spec.config["precision"] == precision
    ]
    completed = [item for item in found if item.result and item.result.outcome is Outcome.COMPLETED]
    return completed[0] if completed else None


def _row(
    name: str, record: TrialRecord, fp32: TrialRecord | None, half: TrialRecord | None
) -> dict[str, Any]:
    return {
        "added": name,
        "trial": record.number,
        "cell": record.spec.overrides,
        "tokens_per_s": record.metric("tokens_per_s"),
        "peak_memory_bytes": record.metric("peak_memory_bytes"),
        "eval_loss": record.metric("eval_loss"),
        "memory_vs_fp32": _ratio(fp32, record, "peak_memory_bytes"),
        "speed_vs_fp32": _ratio(record, fp32, "tokens_per_s"),
        "memory_vs_16bit": _ratio(half, record, "peak_memory_bytes"),
        "speed_vs_16bit": _ratio(record, half, "tokens_per_s"),
    }


def _ratio(above: TrialRecord | None, below: TrialRecord | None, metric: str) -> float | None:
    values = [record.metric(metric) if record else None for record in (above, below)]
    if values[0] is None or not values[1]:
        return None
    return round(values[0] / values[1], 3)


def outcome_of(record: TrialRecord) -> Outcome | None:
    """How the trial ended."""
    return record.result.outcome if record.result else None


def speed_of(record: TrialRecord) -> float:
    """Tokens per second; 0 where nothing was measured."""
    return record.metric("tokens_per_s") or 0.0


def memory_of(record: TrialRecord) -> float:
    """Peak memory in bytes; infinite where nothing was measured."""
    return record.metric("peak_memory_bytes") or float("inf")


def worth_of(base: TrialRecord, record: TrialRecord) -> float:
    """Speed gained times memory saved."""
    return speed_of(record) / max(speed_of(base), 1e-9) * memory_of(base) / memory_of(record)


def micro_of(record: TrialRecord) -> int:
    """The micro batch."""
    return int(record.spec.config["batch"]["micro"])


def times_against(row: Mapping[str, Any], baseline: str) -> str:
    """A row of effects against one of its baselines."""
    less, faster = row[f"memory_vs_{baseline}"], row[f"speed_vs_{baseline}"]
    return (
        "not measured" if less is None or faster is None else f"{less:.2f}x less memory, {faster:.2f}x speed"
    )


def figures_of(record: TrialRecord) -> str:
    """Speed and memory."""
    return f"{speed_of(record):,.0f} tokens/s in {memory_of(record) / 2**20:,.0f} MiB"


def tried_as(record: TrialRecord) -> str:
    """A micro batch and how it did."""
    how = (
        f"{speed_of(record):,.0f} tokens/s"
        if outcome_of(record) is Outcome.COMPLETED
        else str(outcome_of(record))
    )
    return f"{micro_of(record)}: {how}"
