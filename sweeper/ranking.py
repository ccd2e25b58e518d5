"""Which trial is best, under which constraint: pure functions over the records of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.contract import GIB, Outcome
from sweeper.limits import Limit, limits
from sweeper.objectives import Objective, objectives
from sweeper.records import TrialRecord
from sweeper.schema import ConstraintConfig, ObjectiveConfig

MOST_UTILIZATION = 0.75
"""Share of a device's peak that no fine-tune reaches: the best published single-GPU runs reach 0.4 to 0.6."""


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


@dataclass(frozen=True)
class RankedTrial:
    """A trial with its place."""

    record: TrialRecord
    rank: int | None
    """1 is best; None for a trial that is not eligible."""
    violations: tuple[str, ...]
    """Why it is not eligible."""
    remark: str = ""
    """What a reader of its place must know: that others are within its noise."""


@dataclass(frozen=True)
class Ranking:
    """Every trial of a study, best first."""

    rule: Rule
    trials: tuple[RankedTrial, ...]

    @property
    def best(self) -> TrialRecord | None:
        return next((trial.record for trial in self.trials if trial.rank == 1), None)


def rank(records: Sequence[TrialRecord], rule: Rule) -> Ranking:
    """Rank the trials: eligible ones by the metric, then the others by outcome and number.

    Cancelled trials are left out: their cells have been or will be run again.
    """
    settled = [record for record in records if record.result is not None and record.result.outcome.is_final]
    lowest, missing = reference_loss(settled, rule), _missing_reference(settled, rule)
    judged = [(record, violations(record, rule, lowest) or missing) for record in settled]
    eligible = [record for record, found in judged if not found]
    eligible.sort(key=lambda record: (_value(record, rule), -record.number), reverse=rule.maximize)
    if not rule.maximize:
        eligible.sort(key=lambda record: (_value(record, rule), record.number))
    ranked = [RankedTrial(record, place, ()) for place, record in enumerate(eligible, start=1)]
    ranked += [RankedTrial(record, None, tuple(found)) for record, found in judged if found]
    return Ranking(rule, tuple(ranked))


def _value(record: TrialRecord, rule: Rule) -> float:
    value = record.metric(rule.metric)
    assert value is not None
    return value


def reference_loss(records: Sequence[TrialRecord], rule: Rule) -> float | None:
    """The evaluation loss that `eval_loss_within` refers to: the baseline's where one is named (None while
    it has none), else the lowest."""
    if rule.baseline is None:
        return lowest_loss(records)
    return lowest_loss([record for record in records if is_baseline(record, rule)])


def _missing_reference(records: Sequence[TrialRecord], rule: Rule) -> list[str]:
    """Why no trial can be held against the loss that the rule refers to; empty when each can.

    Another loss in its place would be another rule than the one that was asked for.
    """
    if rule.eval_loss_within is None or reference_loss(records, rule) is not None:
        return []
    if rule.baseline is None:
        return ["eval_loss was not measured"]
    ended = [record.result.outcome.value for record in records if is_baseline(record, rule) and record.result]
    how = ended[-1].replace("_", " ") if ended else "not measured yet"
    return [f"the baseline {rule.baseline} has no evaluation loss to compare with ({how})"]


def is_baseline(record: TrialRecord, rule: Rule) -> bool:
    """Whether the trial is one of the cell that `constraint.baseline` names."""
    if rule.baseline is None:
        return False
    return record.spec.overrides == dict(item.split("=", 1) for item in rule.baseline.split())


def lowest_loss(records: Sequence[TrialRecord]) -> float | None:
    """The lowest evaluation loss of the completed trials."""
    losses = [
        loss
        for record in records
        if record.result is not None and record.result.outcome is Outcome.COMPLETED
        if (loss := record.metric("eval_loss")) is not None
    ]
    return min(losses, default=None)


def violations(record: TrialRecord, rule: Rule, lowest: float | None) -> list[str]:
    """Why a trial cannot be best; empty when it can."""
    result = record.result
    if result is None or result.outcome is not Outcome.COMPLETED:
        return [result.outcome.value if result else "running"]
    if record.is_probe:
        return ["a probe, not trained in full"]
    found = [] if record.metric(rule.metric) is not None else [f"{rule.metric} was not measured"]
    found += [said for limit in rule.limits if (said := limit.violation(record)) is not None]
    found += _speed_violation(record, rule) + _impossible_speed(record)
    return found + _loss_violation(record, rule, lowest) + _memory_violation(record, rule)


def _speed_violation(record: TrialRecord, rule: Rule) -> list[str]:
    speed = record.metric("tokens_per_s")
    if rule.tokens_per_s is None or (speed is not None and speed >= rule.tokens_per_s):
        return []
    return [
        "throughput was not measured" if speed is None else f"{speed:,.0f} < {rule.tokens_per_s:g} tokens/s"
    ]


def _impossible_speed(record: TrialRecord) -> list[str]:
    """A device that did more than it can was not measured."""
    hfu = record.metric("hfu")
    if hfu is None or hfu <= MOST_UTILIZATION:
        return []
    return [f"hfu {hfu:.2f} > {MOST_UTILIZATION:g}: the speed cannot have been measured right"]


def _loss_violation(record: TrialRecord, rule: Rule, lowest: float | None) -> list[str]:
    if rule.eval_loss_within is None or lowest is None:
        return []
    loss, allowed = record.metric("eval_loss"), lowest * (1 + rule.eval_loss_within)
    if loss is None:
        return ["eval_loss was not measured"]
    return [f"eval_loss {loss:.4f} > {allowed:.4f}"] if loss > allowed else []


def _memory_violation(record: TrialRecord, rule: Rule) -> list[str]:
    if rule.peak_memory_gib is None:
        return []
    peak = record.metric("peak_memory_bytes")
    if peak is None:
        return ["peak memory was not measured"]
    too_much = peak > rule.peak_memory_gib * GIB
    return [f"peak memory {peak / GIB:.3f} GiB > {rule.peak_memory_gib:g} GiB"] if too_much else []


def to_json(ranking: Ranking) -> dict[str, Any]:
    """The ranking as plain JSON types: `ranking.json`."""
    return {
        "rule": {**asdict(ranking.rule), "sentence": ranking.rule.sentence()},
        "best": ranking.best.number if ranking.best else None,
        "trials": [_row(trial) for trial in ranking.trials],
    }


def _row(trial: RankedTrial) -> dict[str, Any]:
    result = trial.record.result
    assert result is not None
    return {
        "rank": trial.rank,
        "number": trial.record.number,
        "overrides": trial.record.spec.overrides,
        "outcome": result.outcome.value,
        "reason": result.reason,
        "violations": list(trial.violations),
        "remark": trial.remark or None,
        "measurements": result.to_json()["measurements"],
    }


HEADINGS = ("rank", "trial", "cell", "outcome", "tokens/s", "peak MiB", "eval loss", "note")


def rows(ranking: Ranking) -> list[tuple[str, ...]]:
    """The ranking as text cells under `HEADINGS`; an unknown value is a dash."""
    return [_cells(trial) for trial in ranking.trials]


def _cells(trial: RankedTrial) -> tuple[str, ...]:
    record = trial.record
    assert record.result is not None
    completed = record.result.outcome is Outcome.COMPLETED
    return (
        str(trial.rank or "–"),
        str(record.number),
        record.label,
        record.result.outcome.value,
        number(record.metric("tokens_per_s"), "{:,.0f}"),
        number(record.metric("peak_memory_bytes"), "{:,.0f}", 2**20),
        number(record.metric("eval_loss"), "{:.4f}"),
        trial.remark or "; ".join(trial.violations) if completed else record.result.reason or "",
    )


def number(value: float | None, pattern: str, unit: float = 1) -> str:
    """A measurement as text, in units of `unit`; a dash when it is unknown."""
    return "–" if value is None else pattern.format(value / unit)


def to_markdown(ranking: Ranking, title: str, reproduce: str | None) -> str:
    """The ranking as a document: `ranking.md`."""
    lines = [f"# {title}", "", f"Rule: {ranking.rule.sentence()}.", ""]
    lines += _verdict(ranking, reproduce)
    lines += [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    for row in rows(ranking):
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _verdict(ranking: Ranking, reproduce: str | None) -> list[str]:
    if ranking.best is None:
        return ["No trial satisfies the rule.", ""]
    command = ["", f"    {reproduce}"] if reproduce else []
    return [f"Best: trial {ranking.best.number}, `{ranking.best.label}`.", *command, ""]
