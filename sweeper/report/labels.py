"""How a trial is named beside a mark."""

from __future__ import annotations

from html import escape

from sweeper.contract.measurements import MAIN_METRICS, METRICS
from sweeper.study.records import TrialRecord
from sweeper.study.units import phrase


def short(record: TrialRecord) -> str:
    """Its cell in one line, safe to show as HTML (Plotly reads `<b>` and its like)."""
    return escape(record.label, quote=False)


def expected_memory(record: TrialRecord) -> float | None:
    """The peak that was expected of a cell before it ran: the corrected prediction, else the plain one."""
    corrected = record.metric("corrected_memory_bytes")
    return record.metric("predicted_memory_bytes") if corrected is None else corrected


def hover(record: TrialRecord) -> str:
    """What is shown when a mark is pointed at."""
    lines = [f"<b>trial {record.number}</b>", *(escape(part, quote=False) for part in _settings(record))]
    for metric in MAIN_METRICS:
        if (value := record.metric(metric)) is not None:
            name = "" if METRICS[metric].quantity.unit else f"{METRICS[metric].heading} "
            lines.append(f"{name}{phrase(metric, value)}")
    result = record.result
    if result is not None and result.reason:
        lines.append(f"{result.outcome.value}: {escape(result.reason[:90], quote=False)}")
    return "<br>".join(lines)


def _settings(record: TrialRecord) -> list[str]:
    return [f"{key}={value}" for key, value in record.spec.overrides.items()]
