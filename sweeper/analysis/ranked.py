"""Cells in the order of a rule: repeats count as one, and a second criterion decides within the noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from sweeper.analysis.cells import MeasuredCell
from sweeper.analysis.noise import in_noise
from sweeper.ranking.ranking import RankedTrial, Ranking, rank
from sweeper.ranking.rule import Rule

MOST_NAMED = 3
"""Cells within the noise that a remark names."""


@dataclass(frozen=True)
class RankedCell(RankedTrial):
    """A cell with its place; `record` is the cell as one record."""

    cell: MeasuredCell = field(kw_only=True)


@dataclass(frozen=True)
class CellRanking(Ranking):
    """Every cell of a study, best first."""

    trials: tuple[RankedCell, ...]

    @property
    def eligible(self) -> tuple[RankedCell, ...]:
        """The cells that keep the rule, best first."""
        return tuple(row for row in self.trials if row.rank is not None)


def rank_cells(measured: Sequence[MeasuredCell], rule: Rule) -> CellRanking:
    """One row per cell. Of those within the noise of the leader, the best by `rule.second` is first."""
    cells = {cell.record.number: cell for cell in measured}
    ranked = rank([cell.record for cell in measured], rule).trials
    rows = [RankedCell(row.record, row.rank, row.violations, cell=cells[row.record.number]) for row in ranked]
    eligible = [row for row in rows if row.rank is not None]
    return CellRanking(rule, (*_with_ties_decided(eligible, rule), *rows[len(eligible) :]))


def _with_ties_decided(eligible: Sequence[RankedCell], rule: Rule) -> Sequence[RankedCell]:
    """The same cells with the best by the second criterion first, of the leader and those in its noise."""
    tied = [row for row in eligible[1:] if in_noise(eligible[0].cell, row.cell, rule.metric)]
    if not tied:
        return eligible
    best = min((eligible[0], *tied), key=lambda row: _second(row, rule))
    ordered = [best, *(row for row in eligible if row is not best)]
    placed = [dataclasses.replace(row, rank=place) for place, row in enumerate(ordered, start=1)]
    same = [row.record.number for row in (eligible[0], *tied) if row is not best]
    placed[0] = dataclasses.replace(placed[0], remark=_remark(same, rule))
    return placed


def _second(row: RankedCell, rule: Rule) -> float:
    """The second criterion turned so that less is better; what was not measured comes last."""
    gain = rule.second.of(row.record)
    return float("inf") if gain is None else -gain


def _remark(numbers: Sequence[int], rule: Rule) -> str:
    named = ", ".join(map(str, numbers[:MOST_NAMED]))
    more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
    trials = "trial" if len(numbers) == 1 else "trials"
    return f"{trials} {named}{more} within its noise: {rule.second.way} {rule.second.metric} decides"
