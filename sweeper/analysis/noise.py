"""How sure a figure is: the interval of a cell's measurement.

Repeats give the honest one: the 95% confidence interval of their mean (Student's t). A single trial
can say only how steady its own steps were: median ± 1.57 · IQR / √n over its measured steps, the
comparison interval of McGill, Tukey and Larsen, "Variations of Box Plots" (1978): two medians whose
intervals do not overlap differ at about the 5% level. What changes between two runs is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

from sweeper.analysis.cells import MeasuredCell
from sweeper.contract.measurements import METRICS
from sweeper.study.records import TrialRecord

NOTCH = 1.57
"""McGill, Tukey and Larsen 1978, page 16."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Where a figure may well lie."""

    low: float
    high: float
    source: Literal["repeats", "steps"]
    count: int
    """Repeats or measured steps behind it."""

    def meaning(self) -> str:
        """What the interval is, for a person."""
        if self.source == "repeats":
            return f"{CONFIDENCE:.0%} confidence interval of the mean of {self.count} trials"
        return (
            f"median ± {NOTCH} IQR/√n over the {self.count} measured steps of one trial; "
            "what differs between runs is not in it"
        )


def interval(cell: MeasuredCell, metric: str) -> Interval | None:
    """The interval of a cell's metric; None where nothing tells how sure it is."""
    completed = cell.completed
    values = [value for trial in completed if (value := trial.metric(metric)) is not None]
    if len(values) > 1:
        return _of_repeats(values)
    return _of_steps(completed[0], metric) if completed else None


def _of_repeats(values: Sequence[float]) -> Interval:
    from scipy.special import stdtrit

    count = len(values)
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    half = quantile * stdev(values) / math.sqrt(count)
    return Interval(mean(values) - half, mean(values) + half, "repeats", count)


def _of_steps(trial: TrialRecord, metric: str) -> Interval | None:
    """From the quartiles of the step's time, which a throughput has in its denominator."""
    median, count = trial.metric("step_time_s"), trial.metric("measured_steps")
    low, high, value = trial.metric("step_time_p25_s"), trial.metric("step_time_p75_s"), trial.metric(metric)
    if not median or not count or count < 2 or low is None or high is None or value is None:
        return None
    share = NOTCH * (high - low) / math.sqrt(count) / median
    if METRICS[metric].quantity.is_rate:
        return Interval(value / (1 + share), value / max(1 - share, 1e-9), "steps", int(count))
    if metric == "step_time_s":
        return Interval(value * (1 - share), value * (1 + share), "steps", int(count))
    return None


def in_noise(one: MeasuredCell, other: MeasuredCell, metric: str) -> bool:
    """Whether the intervals of two cells overlap; without any, whether their values are the same."""
    (low, high), (other_low, other_high) = _bounds(one, metric), _bounds(other, metric)
    return low <= other_high and other_low <= high


def _bounds(cell: MeasuredCell, metric: str) -> tuple[float, float]:
    if (found := interval(cell, metric)) is not None:
        return found.low, found.high
    value = cell.record.metric(metric)
    return (float("nan"), float("nan")) if value is None else (value, value)
