"""The words of the table of metrics: how values of each kind are written, and what is known of a metric.

`measurements.py` holds the table itself, at the fields of `Measurements`. Standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GIB = 2**30
MIB = 2**20


@dataclass(frozen=True)
class Quantity:
    """How values of a kind are written on a screen."""

    unit: str = ""
    pattern: str = "{:,.4g}"
    divisor: float = 1
    """Bytes of the unit, for bytes."""
    short_pattern: str = ""
    """The same where a screen is narrow; empty: as `pattern`."""
    ending: str = ""
    """How names of such metrics end."""
    tracked_ending: str = ""
    """How MLflow's name ends, where MLflow is given another unit."""
    tracked_divisor: float = 1
    is_rate: bool = False
    """Whether it is work per time: changes are told as ratios."""


COUNT = Quantity()
LOSS = Quantity(pattern="{:.4f}")
SHARE = Quantity(pattern="{:.2%}")
RATE = Quantity("tokens/s", "{:,.0f}", is_rate=True)
TIME = Quantity("s", "{:,.3f}", ending="_s")
ENERGY = Quantity("J", ending="_j")
SIZE = Quantity("MiB", "{:,.1f}", MIB, ending="_bytes")
MEMORY = dataclasses.replace(SIZE, short_pattern="{:,.0f}", tracked_ending="_gib", tracked_divisor=GIB)
STATE = Quantity("B", "{:.2f}")

CUDA = "cuda"
"""What a metric needs that is measured on a CUDA device alone."""


@dataclass(frozen=True)
class Metric:
    """What is known of a figure of a trial."""

    definition: str
    quantity: Quantity = COUNT
    heading: str = ""
    """What stands above a column, its unit included; made of the name where it is empty."""
    label: str = ""
    """How a sentence calls it; the heading where it is empty."""
    is_higher_better: bool = False
    is_probed: bool = False
    """Whether a few steps tell it: that of a full training, but for noise."""
    is_on_card: bool = False
    """Whether the card of a production model shows it."""
    needs: str = ""
    """CUDA, or the option without which it is not measured."""
    derive: Callable[[Any, Any], float | None] | None = None
    """Makes it of measurements and the configuration; None for what a trial measures itself."""
    name: str = ""
    """Filled in by the table."""

    def named(self, name: str) -> Metric:
        """The same with its name, and the heading that follows from it."""
        stem = name.removesuffix(self.quantity.ending).replace("_", " ")
        heading = self.heading or f"{stem} {self.quantity.unit}".strip()
        return dataclasses.replace(self, name=name, heading=heading, label=self.label or heading)

    @property
    def tracked_name(self) -> str:
        """MLflow's name: `peak_memory_bytes` is `peak_memory_gib` there, which its charts show readably."""
        quantity = self.quantity
        if not quantity.tracked_ending:
            return self.name
        return self.name.removesuffix(quantity.ending) + quantity.tracked_ending


def measured(definition: str, quantity: Quantity = COUNT, **known: Any) -> Any:
    """A field that holds a metric; unknown until it was measured."""
    return dataclasses.field(default=None, metadata={"metric": Metric(definition, quantity, **known)})
