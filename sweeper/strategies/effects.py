"""The cumulative effect of methods: a row per added one, against two baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeper.contract import Outcome
from sweeper.records import TrialRecord


def effects(
    records: Sequence[TrialRecord],
    added: Sequence[tuple[str, TrialRecord]],
    plain: Callable[[str], Mapping[str, str]],
) -> list[dict[str, Any]]:
    """Rows in the order in which methods were added. A ratio is None where a side was not measured.

    `memory_vs_…` says how many times less memory than that baseline, `speed_vs_…` how many times its
    throughput. `plain` gives the baseline cell of a precision.
    """
    fp32 = _measured(records, plain("fp32"))
    half = next((found for name in ("bf16", "fp16") if (found := _measured(records, plain(name)))), None)
    return [_row(name, record, fp32, half) for name, record in added]


def _measured(records: Sequence[TrialRecord], cell: Mapping[str, str]) -> TrialRecord | None:
    found = [record for record in records if record.spec.overrides == dict(cell) and record.spec.repeat == 0]
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
