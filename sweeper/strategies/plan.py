"""The whole course of a study: the baseline, the strategy, the finalists."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.dimensions import terms
from sweeper.strategies.base import Plan, Proposal, Question, measured
from sweeper.strategies.fidelity import probe_and_train
from sweeper.strategies.finalists import finalists
from sweeper.strategies.grid import grid
from sweeper.strategies.paper import paper
from sweeper.strategies.search import search

STRATEGIES: dict[str, Callable[[Question], Plan[None]]] = {
    "grid": grid,
    "search": search,
    "joint": search,
    "paper": paper,
}
"""The strategies by their names. `joint` differs from `search` in its default space alone."""


def plan(question: Question) -> Plan[None]:
    """All that a study does, in order."""
    yield from _baseline(question)
    strategy = STRATEGIES[question.space.strategy](question)
    if question.config.fidelity == "probe+train":
        strategy = probe_and_train(question, strategy)
    yield from strategy
    yield from finalists(question)


def _baseline(question: Question) -> Plan[None]:
    """The cell that constraints refer to comes first."""
    named = question.config.constraint.baseline
    if named is not None:
        values = {key: next(iter(value)) for key, value in terms(named).items()}
        cell = question.space.cell(values)
        if cell is not None:
            yield from measured([Proposal(cell, "baseline")])
