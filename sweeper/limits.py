"""Limits on any measured metric: `constraint.at_most` and `constraint.at_least`. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sweeper.contract import Problem
from sweeper.records import METRICS, TrialRecord
from sweeper.schema import ConstraintConfig


@dataclass(frozen=True)
class Limit:
    """The highest or lowest allowed value of a metric."""

    metric: str
    value: float
    is_highest: bool

    def sentence(self) -> str:
        """The limit for a person."""
        return f"{self.metric} at {'most' if self.is_highest else 'least'} {self.value:g}"

    def violation(self, record: TrialRecord) -> str | None:
        """How the trial breaks the limit; None when it does not."""
        found = record.metric(self.metric)
        if found is None:
            return f"{self.metric} was not measured"
        if found > self.value and self.is_highest:
            return f"{self.metric} {found:.4g} > {self.value:g}"
        return (
            f"{self.metric} {found:.4g} < {self.value:g}"
            if found < self.value and not self.is_highest
            else None
        )


def limits(constraint: ConstraintConfig) -> tuple[Limit, ...]:
    """The limits of a configuration that `check` found sound."""
    return tuple(_limit(entry, key == "at_most") for key, entry in _entries(constraint) if _is_sound(entry))


def check(constraint: ConstraintConfig) -> Iterator[Problem]:
    """Every entry that is no limit."""
    for key, entry in _entries(constraint):
        if not _is_sound(entry):
            yield Problem(
                f"constraint.{key} must list METRIC:NUMBER with measured metrics",
                f"constraint.{key}",
                entry,
                f"write constraint.{key}=[METRIC:NUMBER], METRIC one of {', '.join(METRICS)}",
            )


def _entries(constraint: ConstraintConfig) -> Iterator[tuple[str, str]]:
    for key in ("at_most", "at_least"):
        yield from ((key, entry) for entry in getattr(constraint, key))


def _limit(entry: str, is_highest: bool) -> Limit:
    metric, _, value = entry.partition(":")
    return Limit(metric.strip(), float(value), is_highest)


def _is_sound(entry: str) -> bool:
    metric, _, value = entry.partition(":")
    try:
        return metric.strip() in METRICS and math.isfinite(float(value))
    except ValueError:
        return False
