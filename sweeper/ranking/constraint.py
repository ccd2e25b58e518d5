"""What a trial must keep to be eligible as best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sweeper.contract.measurements import METRICS
from sweeper.contract.study_config import ConstraintConfig
from sweeper.contract.trial import GIB, Problem
from sweeper.study.records import TrialRecord

LISTS = ("at_most", "at_least")
"""Options that hold a list of limits, each on a metric of its own."""


@dataclass(frozen=True)
class Constraint:
    """One number of a rule that keeps trials out."""

    option: str
    """Its field of `ConstraintConfig`."""
    metric: str
    limit: float
    """As the option gives it."""
    is_highest: bool = True
    """Whether values above the limit are kept out, not those below."""
    scale: float = 1
    """The option's unit in that of the metric."""
    is_relative: bool = False
    """Whether the limit is a share beyond the loss that it refers to."""
    reference: float | None = None
    """That loss, once it is known."""
    label: str = ""
    """How violations begin; the metric where it is empty."""
    unit: str = ""
    """What follows a value, in the option's unit."""
    pattern: str = "{:.4g}"
    """How a value is written, in the option's unit."""

    @property
    def key(self) -> str:
        """The option as one types it."""
        return f"constraint.{self.option}"

    @property
    def name(self) -> str:
        """The option, with the metric where it lists several: `at_most[forgetting]`."""
        return f"{self.option}[{self.metric}]" if self.option in LISTS else self.option

    @property
    def stored_name(self) -> str:
        """The same as Optuna's studies hold it: `at_most.forgetting`."""
        return self.name.replace("[", ".").rstrip("]")

    @property
    def allowed(self) -> float | None:
        """The limit in the metric's unit; None while what it refers to is unknown."""
        if not self.is_relative:
            return self.limit * self.scale
        return None if self.reference is None else self.reference * (1 + self.limit)

    def needed(self, record: TrialRecord) -> float | None:
        """The limit that would let the trial in; None when nobody can tell."""
        value = record.metric(self.metric)
        if value is None or self.allowed is None:
            return None
        if self.is_relative:
            return value / self.reference - 1 if self.reference else None
        return value / self.scale

    def excess(self, record: TrialRecord) -> float | None:
        """By how much the trial misses it, in the option's unit (a loss: as it is); 0 or less when it keeps
        it, None when nobody can tell."""
        value, allowed = record.metric(self.metric), self.allowed
        if value is None or allowed is None:
            return None
        return (value - allowed) / self.scale * (1 if self.is_highest else -1)

    def violation(self, record: TrialRecord) -> str | None:
        """How the trial breaks it, for a person; None when it does not, or cannot be held against it."""
        if self.allowed is None:
            return None
        value = record.metric(self.metric)
        if value is None:
            return f"{self.label or self.metric} was not measured"
        if (self.excess(record) or 0) <= 0:
            return None
        limit = f"{self.allowed:.4f}" if self.is_relative else f"{self.limit:g}"
        sign = ">" if self.is_highest else "<"
        return (
            f"{self.label or self.metric} {self.pattern.format(value / self.scale)} {sign} {limit}{self.unit}"
        )

    def sentence(self, baseline: str | None = None) -> str:
        """The constraint for a person; `baseline`: the cell whose loss it is relative to."""
        if self.is_relative:
            reference = f"that of {baseline}" if baseline else "the lowest"
            return f"{self.metric} within {100 * self.limit:g}% of {reference}"
        way = "at most" if self.is_highest else "at least"
        return f"{self.label or self.metric} {way} {self.limit:g}{self.unit}"


_SPEED = Constraint(
    "tokens_per_s", "tokens_per_s", 0, False, label="throughput", unit=" tokens/s", pattern="{:,.0f}"
)
_MEMORY = Constraint(
    "peak_memory_gib", "peak_memory_bytes", 0, scale=GIB, label="peak memory", unit=" GiB", pattern="{:.3f}"
)


def parse_constraints(config: ConstraintConfig) -> tuple[Constraint, ...]:
    """The constraints of a configuration; what `check_limits` refuses is left out."""
    loss, speed, memory = config.eval_loss_within, config.tokens_per_s, config.peak_memory_gib
    found = []
    if loss is not None:
        found.append(Constraint("eval_loss_within", "eval_loss", loss, is_relative=True, pattern="{:.4f}"))
    if speed is not None:
        found.append(replace(_SPEED, limit=speed))
    if memory is not None:
        found.append(replace(_MEMORY, limit=memory))
    listed = (_parse_limit(option, entry) for option, entry in _entries(config))
    return (*found, *(item for item in listed if item is not None))


def check_limits(config: ConstraintConfig) -> Iterator[Problem]:
    """Every entry of a list that is no limit."""
    for option, entry in _entries(config):
        if _parse_limit(option, entry) is None:
            yield Problem(
                f"constraint.{option} must list METRIC:NUMBER with measured metrics",
                f"constraint.{option}",
                entry,
                f"write constraint.{option}=[METRIC:NUMBER], METRIC one of {', '.join(METRICS)}",
            )


def _entries(config: ConstraintConfig) -> Iterator[tuple[str, str]]:
    for option in LISTS:
        yield from ((option, entry) for entry in getattr(config, option))


def _parse_limit(option: str, entry: str) -> Constraint | None:
    metric, _, text = entry.partition(":")
    try:
        limit = float(text)
    except ValueError:
        return None
    if metric.strip() not in METRICS or not math.isfinite(limit):
        return None
    return Constraint(option, metric.strip(), limit, is_highest=option == "at_most")
