"""What a strategy is: a generator that proposes cells and hears how they did.

    heard = yield Proposal(cell)    one more cell, and what was heard until the next one is wanted
    heard = yield None              nothing to propose until more is heard

A strategy may look at nothing but what it has heard: then the same results lead it to the same
proposals, and an interrupted study is continued by telling the results of its trials again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sweeper.config.cell import Cell
from sweeper.contract.config import Config
from sweeper.ranking.objective import Objective
from sweeper.ranking.ranking import Ranking, rank
from sweeper.ranking.rule import Rule
from sweeper.space.space import Space
from sweeper.study.records import TrialRecord


@dataclass(frozen=True, eq=False)
class Proposal:
    """A cell to measure. Every proposal is itself: two of the same cell differ."""

    cell: Cell
    stage: str = ""
    """Which part of the strategy asks, for a person."""
    repeat: int = 0
    """0, or the how-manieth measurement of the cell."""
    prunable: bool = True
    """Whether its trial may be ended early: not where others are held against what it measures."""


Heard = tuple[Proposal, TrialRecord]
Result = TypeVar("Result")
Plan = Generator[Proposal | None, Sequence[Heard], Result]


@dataclass
class Question:
    """What a strategy is to find out, and what it has heard."""

    space: Space
    say: Callable[[str], None]
    """Tells a person why something was decided."""
    records: list[TrialRecord] = field(default_factory=list)
    """Every record heard, in order."""
    slots: int = 1
    """Trials that run at a time."""
    open: int = 0
    """Proposals whose results were not heard yet."""
    decisions: list[dict[str, Any]] = field(default_factory=list)
    """What was decided, for the study's folder."""

    @property
    def config(self) -> Config:
        return self.space.config

    @property
    def rule(self) -> Rule:
        return Rule.of(self.config.objective, self.config.constraint)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self.rule.objectives

    def ranking(self) -> Ranking:
        """The ranking of what was heard so far."""
        return rank(self.records, self.rule)

    def decide(self, stage: str, text: str, **facts: Any) -> None:
        """Note a decision and tell it."""
        self.decisions.append({"stage": stage, "text": text, **facts})
        self.say(text)


def measured(proposals: Sequence[Proposal]) -> Plan[list[TrialRecord]]:
    """Have all of these measured; their records in the same order."""
    found: dict[Proposal, TrialRecord] = {}
    for proposal in proposals:
        found.update((yield proposal))
    while not all(proposal in found for proposal in proposals):
        found.update((yield None))
    return [found[proposal] for proposal in proposals]
