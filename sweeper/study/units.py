"""How a measurement is written on a screen: its digits and its unit.

Records hold bytes and seconds; a person reads MiB and a sign. The table of metrics says how each is shown, so
that `best`, the report and Markdown never differ by a rounding.
"""

from __future__ import annotations

import math

from sweeper.contract.measurements import METRICS
from sweeper.contract.metrics import COUNT

UNKNOWN = "–"


def text(metric: str, value: float | None) -> str:
    """A value in a column under its heading; a dash when it is unknown."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    quantity = METRICS[metric].quantity
    if isinstance(value, int) and quantity == COUNT:
        return f"{value:,}"
    return quantity.pattern.format(value / quantity.divisor)


def short_text(metric: str, value: float | None) -> str:
    """The same for a narrow column: memory without a fraction of a MiB."""
    quantity = METRICS[metric].quantity
    if value is None or not quantity.short_pattern:
        return text(metric, value)
    return quantity.short_pattern.format(value / quantity.divisor)


def phrase(metric: str, value: float | None) -> str:
    """A value in a sentence, with its unit."""
    known = text(metric, value)
    return known if known == UNKNOWN else f"{known} {METRICS[metric].quantity.unit}".rstrip()


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


def change_text(metric: str, change: float | None, ratio: float | None) -> str:
    """A change as its metric is compared: a rate in percent, all else as a signed difference."""
    return percent(ratio) if METRICS[metric].quantity.is_rate else difference(metric, change)
