"""Which trial is best, under which constraint: pure functions over the records of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.ranking.eligibility import is_baseline, reference_loss, violations
from sweeper.ranking.rule import Rule
from sweeper.study.records import TrialRecord


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
class LeftOut:
    """A trial that is not judged, because it may not be compared with the others."""

    record: TrialRecord
    why: str
    """What was another, for a person: `other data`."""


@dataclass(frozen=True)
class Ranking:
    """Every trial of a study, best first."""

    rule: Rule
    trials: tuple[RankedTrial, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def best(self) -> TrialRecord | None:
        return next((trial.record for trial in self.trials if trial.rank == 1), None)

    def left_out_sentence(self) -> str | None:
        """How many trials were left out and why, for a person; None when there are none."""
        counts = Counter(item.why for item in self.left_out)
        told = [f"{count} trial{'' if count == 1 else 's'} ({why})" for why, count in counts.items()]
        return f"Left out: {', '.join(told)}" if told else None


def rank(records: Sequence[TrialRecord], rule: Rule) -> Ranking:
    """Rank the trials: eligible ones by the metric, then the others by outcome and number.

    Cancelled trials are left out: their cells have been or will be run again.
    """
    settled = [record for record in records if record.result is not None and record.result.outcome.is_final]
    reference, missing = reference_loss(settled, rule), _missing_reference(settled, rule)
    judged = [(record, violations(record, rule, reference) or missing) for record in settled]
    eligible = [(_gain(record, rule), record) for record, found in judged if not found]
    eligible.sort(key=lambda item: (-item[0], item[1].number))
    ranked = [RankedTrial(record, place, ()) for place, (_, record) in enumerate(eligible, start=1)]
    ranked += [RankedTrial(record, None, tuple(found)) for record, found in judged if found]
    return Ranking(rule, tuple(ranked))


def _gain(record: TrialRecord, rule: Rule) -> float:
    gain = rule.objective.of(record)
    assert gain is not None
    return gain


def _missing_reference(records: Sequence[TrialRecord], rule: Rule) -> list[str]:
    """Why no trial can be held against the loss that the rule refers to; empty when each can.

    Another loss in its place would be another rule than the one that was asked for.
    """
    if rule.loss_limit is None or reference_loss(records, rule) is not None:
        return []
    if rule.baseline is None:
        return ["eval_loss was not measured"]
    ended = [record.result.outcome.value for record in records if is_baseline(record, rule) and record.result]
    how = ended[-1].replace("_", " ") if ended else "not measured yet"
    return [f"the baseline {rule.baseline} has no evaluation loss to compare with ({how})"]


def to_json(ranking: Ranking) -> dict[str, Any]:
    """The ranking as plain JSON types: `ranking.json`."""
    return {
        "rule": ranking.rule.to_json(),
        "best": ranking.best.number if ranking.best else None,
        "left_out": [{"number": item.record.number, "why": item.why} for item in ranking.left_out],
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
