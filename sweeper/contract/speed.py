"""Speed, from the times and tokens of optimizer steps: the same for a trial's own record and for what the
driver reads from the lines of one that was ended. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """Steady-state speed: the `Measurements` of the same names. None when no step is left."""

    measured_steps: int
    step_time_s: float | None = None
    step_time_p25_s: float | None = None
    step_time_p75_s: float | None = None
    tokens_per_s: float | None = None
    padded_tokens_per_s: float | None = None


def measure_speed(
    tokens: Sequence[int], times_s: Sequence[float], padded_tokens: Sequence[int] | None = None
) -> Speed:
    """Speed over the steps that took these times; `padded_tokens` None: unknown."""
    if not times_s:
        return Speed(measured_steps=0)
    p25, median, p75 = quartiles(times_s)
    padded = None if padded_tokens is None else median_rate(padded_tokens, times_s)
    return Speed(len(times_s), median, p25, p75, median_rate(tokens, times_s), padded)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of at least one value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    p25, median, p75 = statistics.quantiles(values, n=4, method="inclusive")
    return p25, median, p75


def median_rate(counts: Sequence[int], times_s: Sequence[float]) -> float:
    """Median over steps of what was done per second."""
    return statistics.median(count / time_s for count, time_s in zip(counts, times_s, strict=True))
