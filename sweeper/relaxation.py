"""When no trial satisfies the rule: which constraint to relax, and by how much."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.contract import GIB
from sweeper.ranking import Ranking, Rule, rank
from sweeper.records import TrialRecord

DIGITS = 3
"""Significant digits of a proposed limit: enough to type, rounded to the side that lets the trial in."""

Needed = Callable[[TrialRecord, float | None], float | None]
"""The lowest limit under which a trial keeps a constraint, given the lowest loss of the study."""


@dataclass(frozen=True)
class Relaxation:
    """Limits under which a trial would be best."""

    limits: dict[str, float]
    """Name of a constraint -> its new limit."""
    before: dict[str, float]
    record: TrialRecord
    """The trial that would be best."""

    def overrides(self) -> list[str]:
        """The new limits as one types them."""
        return [f"constraint.{name}={limit:g}" for name, limit in self.limits.items()]


def relaxations(ranking: Ranking) -> list[Relaxation]:
    """Each single constraint whose relaxation would make a trial best; all together when none would.

    Empty when a trial is best already, or when no limit keeps the trials out (all failed).
    """
    if ranking.best is not None:
        return []
    records = [trial.record for trial in ranking.trials]
    active = [name for name in NEEDED if getattr(ranking.rule, name, None) is not None]
    single = [found for name in active if (found := _relaxed(records, ranking.rule, [name]))]
    if single or len(active) < 2:
        return single
    together = _relaxed(records, ranking.rule, active)
    return [together] if together else []


def _relaxed(records: Sequence[TrialRecord], rule: Rule, names: Sequence[str]) -> Relaxation | None:
    """The smallest relaxation of the named constraints that lets a trial in, the others as they are."""
    without = _with_limits(rule, dict.fromkeys(names))
    candidates = [trial.record for trial in rank(records, without).trials if trial.rank is not None]
    lowest = _lowest(records)
    options = [(_limits(record, names, lowest, rule), record) for record in candidates]
    known = [(limits, record) for limits, record in options if limits]
    if not known:
        return None
    before = {name: float(getattr(rule, name)) for name in names}
    limits, _ = min(known, key=lambda option: _stretch(option[0], before))
    best = rank(records, _with_limits(rule, limits)).best
    return Relaxation(limits, {name: before[name] for name in limits}, best) if best else None


def _with_limits(rule: Rule, limits: Mapping[str, float | None]) -> Rule:
    changed: Any = limits
    return dataclasses.replace(rule, **changed)


def _limits(record: TrialRecord, names: Sequence[str], lowest: float | None, rule: Rule) -> dict[str, float]:
    """The limits that the trial needs beyond what the rule allows; empty when one is unknown."""
    limits = {}
    for name in names:
        needed = NEEDED[name](record, lowest)
        if needed is None:
            return {}
        if needed > getattr(rule, name):
            limits[name] = rounded_up(needed)
    return limits


def _stretch(limits: dict[str, float], before: dict[str, float]) -> float:
    """How far limits are moved, in parts of what they were (a limit of 0 counts as a hundredth)."""
    return sum((limit - before[name]) / max(before[name], 0.01) for name, limit in limits.items())


def rounded_up(value: float) -> float:
    """The next number with few digits that is not below the value."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - DIGITS + 1)
    return float(f"{(math.floor(value / unit) + 1) * unit:.{DIGITS}g}")


def _memory(record: TrialRecord, lowest: float | None) -> float | None:
    peak = record.metric("peak_memory_bytes")
    return None if peak is None else peak / GIB


def _loss(record: TrialRecord, lowest: float | None) -> float | None:
    loss = record.metric("eval_loss")
    return None if loss is None or not lowest else loss / lowest - 1


def _lowest(records: Sequence[TrialRecord]) -> float | None:
    from sweeper.ranking import lowest_loss

    return lowest_loss(records)


NEEDED: dict[str, Needed] = {"peak_memory_gib": _memory, "eval_loss_within": _loss}
"""Every constraint that can be relaxed, by its name in `schema.ConstraintConfig`."""
