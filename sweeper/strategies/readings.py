"""What the paper's procedure reads off a record, and how it tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.contract import Outcome
from sweeper.records import TrialRecord


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
