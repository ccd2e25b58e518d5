"""The section on memory: the peak of each phase, and the prediction beside it where there is one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from sweeper.analysis.choice import Choice
from sweeper.analysis.ranked import RankedCell
from sweeper.contract.measurements import METRICS
from sweeper.contract.metrics import MIB
from sweeper.report.content import Figure, Section, Table
from sweeper.report.figures import BLUE, GREEN, RED, SKY, axis
from sweeper.report.labels import expected_memory, short
from sweeper.study.records import TrialRecord
from sweeper.study.units import percent, text

BY_PHASE = tuple(f"peak_memory_{phase}_bytes" for phase in ("load", "train", "eval"))
PREDICTED = ("predicted_memory_bytes", "corrected_memory_bytes")
MOST_BARS = 15
"""Cells whose memory is drawn phase by phase; the table has all."""


def memory(choice: Choice) -> Section:
    """Peak memory by phase of every cell that measured it, and what had been predicted."""
    title = "Memory by phase"
    rows = [
        trial
        for trial in choice.ranking.trials
        if any(trial.record.metric(name) is not None for name in (*BY_PHASE, *PREDICTED))
    ]
    records = [row.record for row in rows]
    if not records:
        return Section("memory", title, ["No trial has measured its memory phase by phase."])
    lines = []
    meanings = [record.result.definitions.get("peak_memory_bytes") for record in records if record.result]
    if meaning := next((meaning for meaning in meanings if meaning), None):
        lines.append(f"Peak memory is the {meaning}.")
    if len(records) > MOST_BARS:
        lines.append(f"The drawing has the {MOST_BARS} best cells, the table all {len(records)}.")
    trials = [trial for cell in choice.cells for trial in cell.completed]
    if sentence := error_sentence(trials):
        lines.append(f"{sentence}: corrected where a correction is shown.")
    return Section("memory", title, lines, [memory_by_phase(records[:MOST_BARS])], [_memory_table(rows)])


def _memory_table(ranked: Sequence[RankedCell]) -> Table:
    """A row per cell; columns of predictions only where there is one."""
    records = [row.record for row in ranked]
    shown = [*BY_PHASE, "peak_memory_bytes", *(name for name in PREDICTED if _any(records, name))]
    compares = len(shown) > len(BY_PHASE) + 1
    headings = ("trial", "cell", *(METRICS[name].heading for name in shown), *(["error"] if compares else []))
    rows = [
        (
            str(row.record.number),
            row.record.label,
            *(text(name, row.record.metric(name)) for name in shown),
            *([percent(_error(row))] if compares else []),
        )
        for row in ranked
    ]
    return Table(headings, rows, frozenset({"cell"}))


def _any(records: Sequence[TrialRecord], name: str) -> bool:
    return any(record.metric(name) is not None for record in records)


def _error(row: RankedCell) -> float | None:
    """What was expected over what was measured, of a cell that completed."""
    expected, measured = expected_memory(row.record), row.record.metric("peak_memory_bytes")
    return expected / measured if expected and measured and row.cell.completed else None


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
    predicted = [expected_memory(record) for record in records]
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


def error_sentence(records: Iterable[TrialRecord]) -> str | None:
    """How well the prediction agreed with the finished trials of a study; None before the first."""
    pairs = [
        (predicted, measured)
        for record in records
        if (predicted := record.metric("corrected_memory_bytes") or record.metric("predicted_memory_bytes"))
        and (measured := record.metric("peak_memory_bytes"))
    ]
    if not pairs:
        return None
    misses = sorted(abs(predicted / measured - 1) for predicted, measured in pairs)
    return (
        f"Predicted peak memory was off by {statistics.median(misses):.1%} in the median and "
        f"{misses[-1]:.1%} at most, over {len(misses)} trials"
    )
