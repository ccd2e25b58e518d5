"""The section on memory: the peak of each phase, and the prediction beside it where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from sweeper.choice import Choice
from sweeper.contract import Outcome
from sweeper.records import TrialRecord
from sweeper.report.content import Figure, Section, Table
from sweeper.report.figures import BLUE, GREEN, RED, SKY, axis
from sweeper.report.labels import short
from sweeper.units import MIB, percent, text, unit

MOST_BARS = 15
"""Cells whose memory is drawn phase by phase; the table has all."""


def memory(choice: Choice) -> Section:
    """Peak memory by phase of every cell that measured it."""
    title = "Memory by phase"
    names = [f"peak_memory_{phase}_bytes" for phase in ("load", "train", "eval")]
    drawn = (*names, "predicted_peak_memory_bytes")
    records = [
        trial.record
        for trial in choice.ranking.trials
        if any(trial.record.metric(name) is not None for name in drawn)
    ]
    if not records:
        return Section("memory", title, ["No trial has measured its memory phase by phase."])
    lines = []
    result = records[0].result
    if result is not None and (meaning := result.definitions.get("peak_memory_bytes")):
        lines.append(f"Peak memory is the {meaning}.")
    if len(records) > MOST_BARS:
        lines.append(f"The drawing has the {MOST_BARS} best cells, the table all {len(records)}.")
    lines += _prediction_error(records)
    has_prediction = any(record.metric("predicted_peak_memory_bytes") for record in records)
    shown = [*names, "peak_memory_bytes", *(["predicted_peak_memory_bytes"] if has_prediction else [])]
    headings = (
        "trial",
        "cell",
        *(unit(name).heading for name in shown),
        *(["error"] if has_prediction else []),
    )
    rows = [
        (
            str(record.number),
            record.label,
            *(text(name, record.metric(name)) for name in shown),
            *([percent(_error(record))] if has_prediction else []),
        )
        for record in records
    ]
    return Section(
        "memory",
        title,
        lines,
        [memory_by_phase(records[:MOST_BARS])],
        [Table(headings, rows, frozenset({"cell"}))],
    )


def _error(record: TrialRecord) -> float | None:
    """Predicted over measured peak."""
    predicted, measured = record.metric("predicted_peak_memory_bytes"), record.metric("peak_memory_bytes")
    return predicted / measured if predicted and measured else None


def _prediction_error(records: list[TrialRecord]) -> list[str]:
    completed = [record for record in records if record.result and record.result.outcome is Outcome.COMPLETED]
    errors = [abs(error - 1) for record in completed if (error := _error(record)) is not None]
    if not errors:
        return []
    typical, worst = f"{median(errors):.1%}", f"{max(errors):.1%}"
    return [f"The prediction missed the measured peak by {typical} in the median, at most {worst}."]


def memory_by_phase(records: Sequence[TrialRecord]) -> Figure:
    """Peak per phase for each cell; the prediction as a mark where there is one."""
    names = [f"trial {record.number}" for record in records]
    data: list[dict[str, Any]] = []
    for phase, color in (("load", SKY), ("train", BLUE), ("eval", GREEN)):
        values = [record.metric(f"peak_memory_{phase}_bytes") for record in records]
        if any(value is not None for value in values):
            data.append(
                {
                    "type": "bar", "orientation": "h", "name": phase, "y": names,
                    "x": [None if value is None else value / MIB for value in values],
                    "marker": {"color": color}, "text": [short(record) for record in records],
                    "textposition": "none",
                    "hovertemplate": "%{y}, " + phase + ": %{x:,.1f} MiB<br>%{text}<extra></extra>",
                }
            )  # fmt: skip
    predicted = [record.metric("predicted_peak_memory_bytes") for record in records]
    if any(value is not None for value in predicted):
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": "predicted peak", "y": names,
                "x": [None if value is None else value / MIB for value in predicted],
                "marker": {"color": RED, "size": 11, "symbol": "diamond-tall"},
                "hovertemplate": "%{y}, predicted: %{x:,.1f} MiB<extra></extra>",
            }
        )  # fmt: skip
    layout = {
        "xaxis": axis("MiB", rangemode="tozero", tickformat=","),
        "yaxis": axis("", autorange="reversed"),
        "barmode": "group",
        "bargap": 0.3,
    }
    return Figure("memory", "Peak memory by phase", data, layout, 110 + len(records) * 44)
