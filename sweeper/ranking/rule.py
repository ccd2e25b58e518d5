"""The rule that makes a trial best: its objectives and its constraints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sweeper.contract.measurements import METRICS
from sweeper.contract.study_config import DEFAULT_OBJECTIVE, ConstraintConfig, ObjectiveConfig
from sweeper.contract.trial import GIB, Problem
from sweeper.study.records import TrialRecord

PROBED_METRICS = (
    "tokens_per_s padded_tokens_per_s step_time_s peak_memory_bytes peak_memory_train_bytes "
    "peak_memory_load_bytes peak_memory_reserved_bytes peak_memory_allocated_bytes device_memory_bytes "
    "optimizer_state_bytes trainable_parameters energy_per_token_j cost_per_million_tokens"
).split()
"""Metrics that a few steps tell: those of a full training, but for noise."""


@dataclass(frozen=True)
class Objective:
    """One metric and which way is better."""

    metric: str
    maximize: bool

    @property
    def key(self) -> str:
        """The option that names it."""
        return "objective.maximize" if self.maximize else "objective.minimize"

    def gain(self, value: float) -> float:
        """The value turned so that more is better."""
        return value if self.maximize else -value

    def of(self, record: TrialRecord) -> float | None:
        """The trial's gain, or None when it was not measured."""
        value = record.metric(self.metric)
        return None if value is None else self.gain(value)


def objectives(config: ObjectiveConfig) -> tuple[Objective, ...]:
    """The objectives in the order of the configuration, those to maximise first; throughput if none."""
    asked = tuple(
        Objective(metric, maximize)
        for names, maximize in ((config.maximize, True), (config.minimize, False))
        for metric in _names(names)
    )
    return asked or (Objective(DEFAULT_OBJECTIVE, maximize=True),)


def _names(asked: str | Sequence[str] | None) -> Iterator[str]:
    if isinstance(asked, str):
        yield asked
    elif asked is not None:
        yield from asked


@dataclass(frozen=True)
class Bound:
    """One number of a rule that keeps trials out."""

    name: str
    """As in `ConstraintConfig`; `at_most[forgetting]` for an entry of a list."""
    value: float
    is_highest: bool
    """Whether values above it are kept out, not those below."""
    needed: Callable[[TrialRecord], float | None]
    """What the trial would need it to be, or None when that was not measured."""

    def missed_by(self, value: float) -> bool:
        return value > self.value if self.is_highest else value < self.value


def bounds(rule: Rule, reference: float | None) -> Iterator[Bound]:
    """Every constraint of a rule. `reference`: the loss that `eval_loss_within` refers to."""
    if rule.peak_memory_gib is not None:
        yield Bound("peak_memory_gib", rule.peak_memory_gib, True, _memory)
    if rule.eval_loss_within is not None:
        yield Bound("eval_loss_within", rule.eval_loss_within, True, lambda record: _loss(record, reference))
    if rule.tokens_per_s is not None:
        yield Bound("tokens_per_s", rule.tokens_per_s, False, lambda record: record.metric("tokens_per_s"))
    for limit in rule.limits:
        yield Bound(constraint_name(limit), limit.value, limit.is_highest, _metric(limit.metric))


def constraint_name(limit: Limit) -> str:
    """The limit's option, as messages name it."""
    return f"{'at_most' if limit.is_highest else 'at_least'}[{limit.metric}]"


def _metric(name: str) -> Callable[[TrialRecord], float | None]:
    return lambda record: record.metric(name)


def _memory(record: TrialRecord) -> float | None:
    peak = record.metric("peak_memory_bytes")
    return None if peak is None else peak / GIB


def _loss(record: TrialRecord, reference: float | None) -> float | None:
    loss = record.metric("eval_loss")
    return None if loss is None or not reference else loss / reference - 1


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


def violated_by(
    record: TrialRecord, constraint: ConstraintConfig, loss: float | None = None
) -> dict[str, float]:
    """By how much the measurements miss each constraint, in its unit; 0 or less when they keep it.

    `loss`: what `eval_loss_within` refers to, where that is known.
    """
    found: dict[str, float] = {}
    if constraint.peak_memory_gib is not None and (peak := record.metric("peak_memory_bytes")) is not None:
        found["peak_memory_gib"] = peak / GIB - constraint.peak_memory_gib
    if constraint.tokens_per_s is not None and (speed := record.metric("tokens_per_s")) is not None:
        found["tokens_per_s"] = constraint.tokens_per_s - speed
    own = record.metric("eval_loss")
    if constraint.eval_loss_within is not None and own is not None and loss is not None:
        found["eval_loss_within"] = own - loss * (1 + constraint.eval_loss_within)
    for limit in limits(constraint):
        if (value := record.metric(limit.metric)) is not None:
            way = "at_most" if limit.is_highest else "at_least"
            found[f"{way}.{limit.metric}"] = (value - limit.value) * (1 if limit.is_highest else -1)
    return found


@dataclass(frozen=True)
class Rule:
    """The rule that picks the best trial."""

    metric: str
    maximize: bool
    peak_memory_gib: float | None
    eval_loss_within: float | None
    limits: tuple[Limit, ...] = ()
    baseline: str | None = None
    """The cell whose evaluation loss counts instead of the lowest."""
    tokens_per_s: float | None = None
    """Lowest allowed throughput."""
    second: str = "peak_memory_bytes"
    """The metric that decides between cells within each other's noise: the second objective, else peak
    memory (throughput, where memory is the objective)."""
    second_maximize: bool = False

    @classmethod
    def of(cls, objective: ObjectiveConfig, constraint: ConstraintConfig) -> Rule:
        first, *others = objectives(objective)
        memory, speed = (
            Objective("peak_memory_bytes", maximize=False),
            Objective("tokens_per_s", maximize=True),
        )
        second = others[0] if others else speed if "memory" in first.metric else memory
        return cls(
            first.metric,
            first.maximize,
            constraint.peak_memory_gib,
            constraint.eval_loss_within,
            limits(constraint),
            constraint.baseline,
            constraint.tokens_per_s,
            second.metric,
            second.maximize,
        )

    def sentence(self) -> str:
        """The rule for a person."""
        conditions = []
        if self.eval_loss_within is not None:
            reference = f"that of {self.baseline}" if self.baseline else "the lowest"
            conditions.append(f"eval_loss within {100 * self.eval_loss_within:g}% of {reference}")
        if self.tokens_per_s is not None:
            conditions.append(f"at least {self.tokens_per_s:g} tokens/s")
        if self.peak_memory_gib is not None:
            conditions.append(f"peak memory at most {self.peak_memory_gib:g} GiB")
        conditions += [limit.sentence() for limit in self.limits]
        way = "highest" if self.maximize else "lowest"
        return f"{way} {self.metric}" + (
            f" among trials with {' and '.join(conditions)}" if conditions else ""
        )
