"""Cells that the measurements cannot tell apart: a second criterion decides, and it is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sweeper.cells import MeasuredCell
from sweeper.intervals import interval
from sweeper.ranking import RankedTrial, Ranking, Rule, rank

MOST_NAMED = 3
"""Cells within the noise that a remark names."""


def rank_cells(measured: Sequence[MeasuredCell], rule: Rule) -> Ranking:
    """One row per cell. Of those within the noise of the leader, the best by `rule.second` is first."""
    by_number = {cell.record.number: cell for cell in measured}
    ranking = rank([cell.record for cell in measured], rule)
    eligible = [trial for trial in ranking.trials if trial.rank is not None]
    if not eligible:
        return ranking
    leader, *others = eligible
    own = by_number[leader.record.number]
    tied = [trial for trial in others if in_noise(own, by_number[trial.record.number], rule.metric)]
    if not tied:
        return ranking
    best = min((leader, *tied), key=lambda trial: _second(trial, rule))
    ordered = [best, *(trial for trial in eligible if trial is not best)]
    placed = [dataclasses.replace(trial, rank=place) for place, trial in enumerate(ordered, start=1)]
    same = [trial.record.number for trial in (leader, *tied) if trial is not best]
    placed[0] = dataclasses.replace(placed[0], remark=_remark(same, rule))
    return Ranking(rule, (*placed, *ranking.trials[len(eligible) :]))


def in_noise(one: MeasuredCell, other: MeasuredCell, metric: str) -> bool:
    """Whether the intervals of two cells overlap; without any, whether their values are the same."""
    (low, high), (other_low, other_high) = _bounds(one, metric), _bounds(other, metric)
    return low <= other_high and other_low <= high


def _bounds(cell: MeasuredCell, metric: str) -> tuple[float, float]:
    if (found := interval(cell, metric)) is not None:
        return found.low, found.high
    value = cell.record.metric(metric)
    return (float("nan"), float("nan")) if value is None else (value, value)


def _second(trial: RankedTrial, rule: Rule) -> float:
    """The second criterion turned so that less is better; what was not measured comes last."""
    value = trial.record.metric(rule.second)
    if value is None:
        return float("inf")
    return -value if rule.second_maximize else value


def _remark(numbers: Sequence[int], rule: Rule) -> str:
    named = ", ".join(map(str, numbers[:MOST_NAMED]))
    more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
    trials = "trial" if len(numbers) == 1 else "trials"
    way = "highest" if rule.second_maximize else "lowest"
    return f"{trials} {named}{more} within its noise: {way} {rule.second} decides"
