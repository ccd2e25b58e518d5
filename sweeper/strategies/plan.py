"""The whole course of a study: the baseline, the strategy, the finalists."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.ranking.pareto import pareto_front
from sweeper.space.conditions import terms
from sweeper.space.space import Space
from sweeper.strategies.base import Plan, Proposal, Question, measured
from sweeper.strategies.fidelity import probe_and_train
from sweeper.strategies.finalists import finalists
from sweeper.strategies.grid import grid
from sweeper.strategies.paper import paper
from sweeper.strategies.search import count_drawn, search

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
    _front(question)


def count_cells(space: Space) -> int | None:
    """Cells that the study asks for; None where the strategy decides as it goes."""
    if space.config.fidelity != "train" or space.strategy == "paper":
        return None
    if space.strategy != "grid":
        return count_drawn(space)
    return len({cell.label for cell in space.cells} | {space.config.constraint.baseline} - {None})


def _front(question: Question) -> None:
    """With several objectives there is no best cell but a front of them."""
    if len(question.objectives) < 2:
        return
    eligible = [trial.record for trial in question.ranking().trials if trial.rank is not None]
    front = pareto_front(eligible, question.objectives)
    names = " and ".join(item.metric for item in question.objectives)
    cells = ", ".join(f"trial {record.number} ({record.label})" for record in front)
    question.decide(
        "front",
        f"no other eligible cell beats these in {names}: {cells or 'none'}",
        trials=[record.number for record in front],
    )


def _baseline(question: Question) -> Plan[None]:
    """The cell that constraints refer to comes first."""
    named = question.config.constraint.baseline
    if named is not None:
        values = {key: next(iter(value)) for key, value in terms(named).items()}
        cell = question.space.cell(values)
        if cell is not None:
            yield from measured([Proposal(cell, "baseline", prunable=False)])
