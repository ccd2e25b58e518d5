"""The drawings, as dictionaries in Plotly's words: no plotly is needed to write them.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), told apart by colour-blind readers;
shape or position always says the same thing a second time. Text and lines take the page's ink, which
the page fills in for its light and dark mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from sweeper.analysis.choice import Choice
from sweeper.analysis.noise import interval
from sweeper.analysis.ranked import RankedCell
from sweeper.contract.measurements import METRICS
from sweeper.contract.metrics import GIB, MIB
from sweeper.contract.trial import Outcome
from sweeper.ranking.constraint import Constraint
from sweeper.ranking.pareto import pareto_front
from sweeper.report.content import Figure
from sweeper.report.curves import Curve
from sweeper.report.labels import expected_memory, hover, short
from sweeper.study.records import TrialRecord

BLUE, SKY, GREEN, ORANGE, RED, PURPLE, YELLOW = (
    "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#F0E442"
)  # fmt: skip
GREY = "#8C8C8C"
LINES = (BLUE, RED, GREEN, ORANGE, SKY, PURPLE)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
DIVERGING = [[0.0, BLUE], [0.5, "#F5F5F5"], [1.0, RED]]
BAR_PX = 30
"""Height of a bar with its gap."""
LETTER_PX = 9
"""Room for a letter of the figures' 12.5 px."""


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis that makes room for its labels."""
    return {"title": {"text": title}, "automargin": True, **more}


def trade_off(choice: Choice) -> Figure:
    """Throughput against memory: eligible cells, those that break the rule, those that did not run."""
    completed = [row for row in choice.ranking.trials if row.cell.completed]
    ranked = [row for row in completed if row.rank is not None]
    out = [row for row in completed if row.rank is None]
    failed = [row.record for row in choice.ranking.trials if not row.cell.completed]
    front = pareto_front([trial.record for trial in completed])
    data = [
        _line("Pareto front", front, "tokens_per_s"),
        _points("eligible", ranked[1:], {"color": SKY, "size": 10, "line": {"width": 1, "color": BLUE}}),
        _points("breaks the rule", out, {"color": ORANGE, "size": 9, "symbol": "diamond-open"}),
        _failures(failed),
        _points("best", ranked[:1], {"color": RED, "size": 18, "symbol": "star"}),
    ]
    layout = {
        "xaxis": axis("peak memory, MiB", tickformat=","),
        "yaxis": axis("tokens/s", rangemode="tozero", tickformat=","),
        "shapes": [shape for item in choice.ranking.rule.constraints for shape in _limit(item)],
        "hovermode": "closest",
    }
    return Figure("trade-off", "Throughput against peak memory", [item for item in data if item], layout, 460)


def _points(name: str, rows: Sequence[RankedCell], marker: dict[str, Any]) -> dict[str, Any] | None:
    rows = [row for row in rows if row.record.metric("peak_memory_bytes") is not None]
    if not rows:
        return None
    records = [row.record for row in rows]
    speeds = [record.metric("tokens_per_s") for record in records]
    intervals = [interval(row.cell, "tokens_per_s") for row in rows]
    above = [
        found.high - speed if found and speed else 0 for found, speed in zip(intervals, speeds, strict=True)
    ]
    below = [
        speed - found.low if found and speed else 0 for found, speed in zip(intervals, speeds, strict=True)
    ]
    errors = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [(record.metric("peak_memory_bytes") or 0) / MIB for record in records],
        "y": speeds,
        "text": [hover(record) for record in records],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
        "error_y": {**errors, "thickness": 1, "width": 2, "color": "rgba(128,128,128,0.5)"},
    }


def _line(name: str, records: Sequence[TrialRecord], metric: str) -> dict[str, Any] | None:
    if not records:
        return None
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [(record.metric("peak_memory_bytes") or 0) / MIB for record in records],
        "y": [record.metric(metric) for record in records],
        "line": {"color": GREEN, "width": 2, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }


def _failures(records: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """Cells that did not finish, at the foot of the drawing, where their memory is known."""
    known = [(record, memory) for record in records if (memory := memory_at_failure(record)) is not None]
    if not known:
        return None
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "did not finish",
        "x": [memory / MIB for _, memory in known],
        "y": [0] * len(known),
        "text": [hover(record) for record, _ in known],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": RED, "size": 9, "symbol": "x-thin", "line": {"width": 2, "color": RED}},
        "cliponaxis": False,
    }


def memory_at_failure(record: TrialRecord) -> float | None:
    """How much memory a failed trial is known to have wanted: what kept it from starting, else the highest
    of what was predicted, what it reached, and the limit that it hit."""
    result, predicted = record.result, expected_memory(record)
    if result is None or (result.outcome is Outcome.PREDICTED_OOM and predicted is not None):
        return predicted
    limit = (record.spec.config.get("trial") or {}).get("memory_limit_gib")
    hit = limit * GIB if limit and result.outcome in (Outcome.OUT_OF_MEMORY, Outcome.PREDICTED_OOM) else None
    known = [value for value in (predicted, record.metric("peak_memory_bytes"), hit) if value is not None]
    return max(known, default=None)


def _limit(constraint: Constraint) -> Iterator[dict[str, Any]]:
    """A line where a constraint on an axis of the drawing ends what is allowed."""
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    if constraint.metric == "peak_memory_bytes":
        at = (constraint.allowed or 0) / MIB
        yield {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}
    elif constraint.metric == "tokens_per_s":
        at = constraint.allowed or 0
        yield {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": at, "y1": at, "line": line}


def waterfall(key: str, title: str, labels: Sequence[str], values: Sequence[float], metric: str) -> Figure:
    """From the baseline's value to the last one, a bar per added switch."""
    known = METRICS[metric]
    scaled = [value / known.quantity.divisor for value in values]
    changes = [after - before for before, after in pairwise(scaled)]
    more, less = (BLUE, ORANGE) if known.is_higher_better else (ORANGE, BLUE)
    data = {
        "type": "waterfall",
        "orientation": "h",
        "measure": ["absolute", *("relative" for _ in changes), "total"],
        "y": [*labels, "in all"],
        "x": [scaled[0], *changes, 0],
        "text": [f"{scaled[0]:,.0f}", *(f"{change:+,.0f}".replace("-", "−") for change in changes),
                 f"{scaled[-1]:,.0f}"],
        "textposition": "auto",
        "cliponaxis": False,
        "connector": {"line": {"color": GREY, "width": 1}},
        "increasing": {"marker": {"color": more}},
        "decreasing": {"marker": {"color": less}},
        "totals": {"marker": {"color": GREY}},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }  # fmt: skip
    layout = {
        "xaxis": axis(known.quantity.unit, tickformat=","),
        "yaxis": axis("", autorange="reversed"),
        "showlegend": False,
    }
    return Figure(key, title, [data], layout, 90 + (len(labels) + 1) * (BAR_PX + 8))


def loss_curves(shown: Sequence[Curve], others: Sequence[Curve]) -> Figure:
    """Training loss over tokens: the best cells in colour, all others as a grey field behind them."""
    data = []
    if others:
        x: list[float | None] = []
        y: list[float | None] = []
        for curve in others:
            x += [*curve.tokens, None]
            y += [*curve.losses, None]
        line = {"color": "rgba(140,140,140,0.35)", "width": 1}
        data.append(
            {"type": "scatter", "mode": "lines", "name": "other trials", "x": x, "y": y, "line": line,
             "hoverinfo": "skip"}
        )  # fmt: skip
    for position, curve in enumerate(shown):
        data += _curve(curve, LINES[position % len(LINES)], DASHES[position % len(DASHES)])
    layout = {
        "xaxis": axis("tokens trained on", rangemode="tozero", tickformat=","),
        "yaxis": axis("loss"),
        "hovermode": "x unified" if len(shown) <= 3 else "closest",
    }
    return Figure("loss", "Loss over tokens", data, layout, 440)


def _curve(curve: Curve, color: str, dash: str) -> list[dict[str, Any]]:
    name = f"trial {curve.record.number}"
    common = {"legendgroup": name, "text": short(curve.record), "type": "scatter"}
    lines = {
        **common, "mode": "lines", "name": name, "x": curve.tokens, "y": curve.losses,
        "line": {"color": color, "width": 2, "dash": dash},
        "hovertemplate": f"{name}: %{{y:.4f}} at %{{x:,}} tokens<br>%{{text}}<extra></extra>",
    }  # fmt: skip
    evaluations = {
        **common, "mode": "markers", "name": f"{name}, evaluation", "showlegend": False,
        "x": curve.evaluated_at, "y": curve.evaluations, "cliponaxis": False,
        "marker": {"color": color, "size": 9, "symbol": "diamond"},
        "hovertemplate": f"{name}: evaluation %{{y:.4f}} at %{{x:,}} tokens<extra></extra>",
    }  # fmt: skip
    return [lines, evaluations] if curve.evaluations else [lines]
