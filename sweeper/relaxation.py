"""When no trial satisfies the rule: which constraint to relax, and by how much."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.contract import GIB
from sweeper.limits import Limit
from sweeper.ranking import Ranking, Rule, rank, reference_loss
from sweeper.records import TrialRecord

DIGITS = 3
"""Significant digits of a proposed limit: enough to type, rounded to the side that lets the trial in."""

Judge = Callable[[Sequence[TrialRecord], Rule], Ranking]


@dataclass(frozen=True)
class Bound:
    """One number of a rule that keeps trials out."""

    name: str
    """As in `schema.ConstraintConfig`; `at_most[forgetting]` for an entry of a list."""
    value: float
    is_highest: bool
    """Whether values above it are kept out, not those below."""
    needed: Callable[[TrialRecord], float | None]
    """What the trial would need it to be, or None when that was not measured."""

    def missed_by(self, value: float) -> bool:
        return value > self.value if self.is_highest else value < self.value


@dataclass(frozen=True)
class Relaxation:
    """Limits under which a trial would be best."""

    limits: dict[str, float]
    """Name of a bound -> its new value."""
    before: dict[str, float]
    record: TrialRecord
    """The trial that would be best."""
    rule: Rule
    """The rule with the new limits."""

    def overrides(self) -> list[str]:
        """The new limits as one types them; a list is said whole."""
        names = dict.fromkeys(name.partition("[")[0] for name in self.limits)
        return [f"constraint.{name}={_typed(self.rule, name)}" for name in names]


def relaxations(ranking: Ranking, judge: Judge = rank) -> list[Relaxation]:
    """Each single constraint whose relaxation would make a trial best; all together when none would.

    Empty when a trial is best already, or when no limit keeps the trials out (all failed).
    """
    if ranking.best is not None:
        return []
    records = [trial.record for trial in ranking.trials]
    active = list(bounds(ranking.rule, reference_loss(records, ranking.rule)))
    single = [found for bound in active if (found := _relaxed(records, ranking.rule, [bound], judge))]
    if single or len(active) < 2:
        return single
    together = _relaxed(records, ranking.rule, active, judge)
    return [together] if together else []


def bounds(rule: Rule, reference: float | None) -> Iterator[Bound]:
    """Every constraint of a rule. `reference`: the loss that `eval_loss_within` refers to."""
    if rule.peak_memory_gib is not None:
        yield Bound("peak_memory_gib", rule.peak_memory_gib, True, _memory)
    if rule.eval_loss_within is not None:
        yield Bound("eval_loss_within", rule.eval_loss_within, True, lambda record: _loss(record, reference))
    if rule.tokens_per_s is not None:
        yield Bound("tokens_per_s", rule.tokens_per_s, False, lambda record: record.metric("tokens_per_s"))
    for limit in rule.limits:
        yield Bound(_name(limit), limit.value, limit.is_highest, _metric(limit.metric))


def _name(limit: Limit) -> str:
    return f"{'at_most' if limit.is_highest else 'at_least'}[{limit.metric}]"


def _metric(name: str) -> Callable[[TrialRecord], float | None]:
    return lambda record: record.metric(name)


def _memory(record: TrialRecord) -> float | None:
    peak = record.metric("peak_memory_bytes")
    return None if peak is None else peak / GIB


def _loss(record: TrialRecord, reference: float | None) -> float | None:
    loss = record.metric("eval_loss")
    return None if loss is None or not reference else loss / reference - 1


def _relaxed(
    records: Sequence[TrialRecord], rule: Rule, active: Sequence[Bound], judge: Judge
) -> Relaxation | None:
    """The smallest relaxation of these constraints that lets a trial in, the others as they are."""
    without = _with_limits(rule, {bound.name: None for bound in active})
    candidates = [trial.record for trial in rank(records, without).trials if trial.rank is not None]
    options = [limits for record in candidates if (limits := _limits(record, active))]
    if not options:
        return None
    before = {bound.name: bound.value for bound in active}
    limits = min(options, key=lambda option: _stretch(option, before))
    relaxed = _with_limits(rule, limits)
    best = judge(records, relaxed).best
    return Relaxation(limits, {name: before[name] for name in limits}, best, relaxed) if best else None


def _with_limits(rule: Rule, limits: Mapping[str, float | None]) -> Rule:
    """The rule with other numbers; a constraint that becomes None is dropped."""
    plain: Any = {name: value for name, value in limits.items() if "[" not in name}
    listed = []
    for limit in rule.limits:
        value = limits.get(_name(limit), limit.value)
        if value is not None:
            listed.append(dataclasses.replace(limit, value=value))
    return dataclasses.replace(rule, **plain, limits=tuple(listed))


def _typed(rule: Rule, name: str) -> str:
    if name not in ("at_most", "at_least"):
        return f"{getattr(rule, name):g}"
    shown = [limit for limit in rule.limits if limit.is_highest == (name == "at_most")]
    return f"[{','.join(f'{limit.metric}:{limit.value:g}' for limit in shown)}]"


def _limits(record: TrialRecord, active: Sequence[Bound]) -> dict[str, float]:
    """The limits that the trial needs beyond what the rule allows; empty when one is unknown."""
    limits = {}
    for bound in active:
        needed = bound.needed(record)
        if needed is None:
            return {}
        if bound.missed_by(needed):
            limits[bound.name] = rounded(needed, up=bound.is_highest)
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
