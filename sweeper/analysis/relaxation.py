"""When no trial satisfies the rule: which constraint to relax, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.analysis.cells import MeasuredCell
from sweeper.analysis.ranked import CellRanking, rank_cells
from sweeper.ranking.constraint import Constraint
from sweeper.ranking.eligibility import reference_loss
from sweeper.ranking.rule import Rule
from sweeper.study.records import TrialRecord

DIGITS = 3
"""Significant digits of a proposed limit: enough to type, rounded to the side that lets the trial in."""


@dataclass(frozen=True)
class Relaxation:
    """Limits under which a trial would be best."""

    limits: dict[str, float]
    """Name of a constraint -> its new value."""
    before: dict[str, float]
    record: TrialRecord
    """The trial that would be best."""
    rule: Rule
    """The rule with the new limits."""

    def overrides(self) -> list[str]:
        """The new limits as one types them; a list is said whole."""
        options = dict.fromkeys(item.option for item in self.rule.constraints if item.name in self.limits)
        return [self.rule.typed(option) for option in options]


def relaxations(ranking: CellRanking) -> list[Relaxation]:
    """Each single constraint whose relaxation would make a trial best; all together when none would.

    Empty when a trial is best already, or when no limit keeps the trials out (all failed).
    """
    if ranking.best is not None:
        return []
    cells, rule = [row.cell for row in ranking.trials], ranking.rule
    active = rule.with_reference(reference_loss([cell.record for cell in cells], rule)).constraints
    single = [found for item in active if (found := _relaxed(cells, rule, [item]))]
    if single or len(active) < 2:
        return single
    together = _relaxed(cells, rule, active)
    return [together] if together else []


def _relaxed(cells: Sequence[MeasuredCell], rule: Rule, active: Sequence[Constraint]) -> Relaxation | None:
    """The smallest relaxation of these constraints that lets a trial in, the others as they are."""
    without = rule.with_limits({item.name: None for item in active})
    candidates = [row.record for row in rank_cells(cells, without).eligible]
    options = [limits for record in candidates if (limits := _limits(record, active))]
    if not options:
        return None
    before = {item.name: item.limit for item in active}
    limits = min(options, key=lambda option: _stretch(option, before))
    relaxed = rule.with_limits(limits)
    best = rank_cells(cells, relaxed).best
    return Relaxation(limits, {name: before[name] for name in limits}, best, relaxed) if best else None


def _limits(record: TrialRecord, active: Sequence[Constraint]) -> dict[str, float]:
    """The limits that the trial needs beyond what the rule allows; empty when one is unknown."""
    limits = {}
    for item in active:
        needed, excess = item.needed(record), item.excess(record)
        if needed is None or excess is None:
            return {}
        if excess > 0:
            limits[item.name] = rounded(needed, up=item.is_highest)
    return limits


def _stretch(limits: dict[str, float], before: dict[str, float]) -> float:
    """How far limits are moved, in parts of what they were (a limit of 0 counts as a hundredth)."""
    return sum(abs(limit - before[name]) / max(abs(before[name]), 0.01) for name, limit in limits.items())


def rounded(value: float, up: bool) -> float:
    """The next number with few digits that is above the value, or below it."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    steps = math.floor(value / unit) + 1 if up else math.ceil(value / unit) - 1
    return float(f"{steps * unit:.{DIGITS}g}")
