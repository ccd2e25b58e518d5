"""Whether a trial may be best: the loss that others are held against, and what a trial violates."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.contract.trial import Outcome
from sweeper.ranking.rule import Rule
from sweeper.study.records import TrialRecord

MOST_UTILIZATION = 0.75
"""Share of a device's peak that no fine-tune reaches: the best published single-GPU runs reach 0.4 to 0.6."""


def reference_loss(records: Sequence[TrialRecord], rule: Rule) -> float | None:
    """The evaluation loss that `eval_loss_within` refers to: the baseline's where one is named (None while
    it has none), else the lowest."""
    if rule.baseline is None:
        return lowest_loss(records)
    return lowest_loss([record for record in records if is_baseline(record, rule)])


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


def violations(record: TrialRecord, rule: Rule, reference: float | None) -> list[str]:
    """Why a trial cannot be best; empty when it can. `reference`: the loss that the rule refers to."""
    result = record.result
    if result is None or result.outcome is not Outcome.COMPLETED:
        return [result.outcome.value if result else "running"]
    if record.is_probe:
        return ["a probe, not trained in full"]
    found = [] if record.metric(rule.metric) is not None else [f"{rule.metric} was not measured"]
    broken = (item.violation(record) for item in rule.with_reference(reference).constraints)
    return found + _impossible_speed(record) + [said for said in broken if said is not None]


def _impossible_speed(record: TrialRecord) -> list[str]:
    """A device that did more than it can was not measured."""
    hfu = record.metric("hfu")
    if hfu is None or hfu <= MOST_UTILIZATION:
        return []
    return [f"hfu {hfu:.2f} > {MOST_UTILIZATION:g}: the speed cannot have been measured right"]


class Reference:
    """The loss that a rule refers to, as far as the trials that have ended tell."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.loss: float | None = None

    def hear(self, record: TrialRecord) -> None:
        """Take in a trial that ended."""
        found = reference_loss([record], self._rule)
        if found is not None:
            self.loss = found if self.loss is None else min(self.loss, found)

    def keeps_always(self, record: TrialRecord) -> bool:
        """Whether the trial keeps every constraint whatever is measured later."""
        may_fall = self._rule.loss_limit is not None and (self._rule.baseline is None or self.loss is None)
        return not may_fall and not violations(record, self._rule, self.loss)
