"""How a measurement is written on a screen: its heading, its unit, its digits.

Records hold bytes and seconds; a person reads MiB and a sign. One table says how each metric is
shown, so that `best`, the report and Markdown never differ by a rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MIB = 2**20
UNKNOWN = "–"


@dataclass(frozen=True)
class Unit:
    """How the values of a metric are shown."""

    heading: str
    """What stands above a column; holds the unit."""
    suffix: str
    """What follows a single value."""
    divisor: float
    pattern: str
    lower_is_better: bool

    def scaled(self, value: float) -> float:
        return value / self.divisor


THROUGHPUT = ("tokens_per_s", "padded_tokens_per_s")
SHARES = ("trainable_share", "mfu", "hfu", "exact_match", "hallucination_rate")
HIGHER_IS_BETTER = (*THROUGHPUT, "exact_match", "mfu", "hfu")


def unit(metric: str) -> Unit:
    """The unit of a metric, known from its name."""
    name, lower = metric.replace("_", " "), metric not in HIGHER_IS_BETTER
    if metric in THROUGHPUT:
        return Unit(name.replace(" per s", "/s"), " tokens/s", 1, "{:,.0f}", lower)
    if metric == "optimizer_state_bytes_per_parameter":
        return Unit("state B/param", " B", 1, "{:.2f}", lower)
    if metric.endswith("_bytes"):
        short = name.removesuffix(" bytes").replace("peak memory", "peak")
        return Unit(f"{short} MiB", " MiB", MIB, "{:,.1f}", lower)
    if metric.endswith("_s"):
        return Unit(f"{name.removesuffix(' s')} s", " s", 1, "{:,.3f}", lower)
    if metric.endswith("_j"):
        return Unit(f"{name.removesuffix(' j')} J", " J", 1, "{:,.4g}", lower)
    if metric in SHARES:
        return Unit(name, "", 1, "{:.2%}", lower)
    if "loss" in metric or metric in ("forgetting", "overfit_gap"):
        return Unit(name, "", 1, "{:.4f}", lower)
    return Unit(name, "", 1, "{:,.4g}", lower)


def text(metric: str, value: float | None) -> str:
    """A value in a column under its heading; a dash when it is unknown."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    shown = unit(metric)
    if isinstance(value, int) and shown.divisor == 1 and shown.pattern == "{:,.4g}":
        return f"{value:,}"
    return shown.pattern.format(shown.scaled(value))


def phrase(metric: str, value: float | None) -> str:
    """A value in a sentence, with its unit."""
    known = text(metric, value)
    return known if known == UNKNOWN else f"{known}{unit(metric).suffix}"


def difference(metric: str, value: float | None) -> str:
    """A change with its sign; a dash when it is unknown."""
    known = text(metric, None if value is None else abs(value))
    if value is None or known == UNKNOWN:
        return UNKNOWN
    if known == text(metric, 0.0):
        return "0"
    return f"{'−' if value < 0 else '+'}{known}"


def percent(ratio: float | None) -> str:
    """A ratio as a signed change in percent: 1.12 is +12%."""
    if ratio is None or not math.isfinite(ratio):
        return UNKNOWN
    if abs(ratio - 1) < 0.0005:
        return "0%"
    return f"{'−' if ratio < 1 else '+'}{abs(ratio - 1):.1%}"
