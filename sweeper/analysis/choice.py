"""The verdict of a study with its reasons: which cell is best, how sure, and what each switch bought.

Pure functions over the records; `best` prints what stands here and the report draws it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.analysis.asked import select_asked
from sweeper.analysis.cells import MeasuredCell, cells
from sweeper.analysis.effects import (
    Delta,
    Effect,
    Interaction,
    change,
    interactions,
    main_effects,
    neighbours,
    references,
)
from sweeper.analysis.noise import Interval, in_noise, interval
from sweeper.analysis.ranked import CellRanking, RankedCell, rank_cells
from sweeper.analysis.relaxation import Relaxation, relaxations
from sweeper.contract.measurements import MAIN_METRICS, METRICS
from sweeper.contract.trial import Outcome
from sweeper.ranking.ranking import to_json as ranking_json
from sweeper.ranking.rule import Rule
from sweeper.study.records import StudyRecord, TrialRecord
from sweeper.study.units import change_text, phrase

MOST_EFFECTS_TOGETHER = 12
"""Interactions are looked for among at most this many switches: their number grows with the square."""


@dataclass(frozen=True)
class Rival:
    """An eligible cell beside the best."""

    cell: MeasuredCell
    rank: int
    switch: str | None
    """The one switch in which it differs from the best; None when it differs in several."""
    deltas: dict[str, Delta]
    """Metric -> its change from the best to the rival."""
    in_noise: bool
    """Whether it cannot be told apart from the best by the objective."""


@dataclass(frozen=True)
class Choice:
    """What the records of a study say under a rule."""

    study: StudyRecord
    cells: tuple[MeasuredCell, ...]
    ranking: CellRanking
    """One row per cell; a cell with repeats has their mean."""
    best: MeasuredCell | None
    interval: Interval | None
    """Of the best cell's objective."""
    next_best: Rival | None
    neighbour: Rival | None
    """The best eligible cell that differs in one switch."""
    better_but_out: tuple[RankedCell, ...]
    """Completed cells with a better value of the objective that break the rule."""
    relaxations: tuple[Relaxation, ...]
    references: dict[str, str]
    """Switch -> the setting that effects start from."""
    effects: tuple[Effect, ...]
    interactions: tuple[Interaction, ...]


@dataclass(frozen=True)
class Judged:
    """The cells of a study in their order: the part of a choice that is quick for ten thousand of them."""

    cells: tuple[MeasuredCell, ...]
    ranking: CellRanking

    def to_json(self) -> dict[str, Any]:
        """`ranking.json`: one row per cell, with the numbers of its trials."""
        plain = ranking_json(self.ranking)
        numbers = [[trial.number for trial in row.cell.trials] for row in self.ranking.trials]
        rows = zip(plain["trials"], numbers, strict=True)
        return plain | {"trials": [row | {"trials": own} for row, own in rows]}


def judge(study: StudyRecord, records: Sequence[TrialRecord], rule: Rule) -> Judged:
    """Rank the trials that answer what the study asks, repeats of a cell as one."""
    asked = select_asked(study, records)
    measured = tuple(cells(asked.kept))
    return Judged(measured, dataclasses.replace(rank_cells(measured, rule), left_out=asked.left_out))


def choose(study: StudyRecord, records: Sequence[TrialRecord], rule: Rule) -> Choice:
    """Judge the trials that answer what the study asks, and find the reasons."""
    judged = judge(study, records, rule)
    measured, ranking = judged.cells, judged.ranking
    eligible = [row.cell for row in ranking.eligible]
    best = eligible[0] if eligible else None
    starts = references(study, measured)
    metrics = tuple(dict.fromkeys((rule.metric, *MAIN_METRICS)))
    few = dict(list(starts.items())[:MOST_EFFECTS_TOGETHER])
    return Choice(
        study=study,
        cells=measured,
        ranking=ranking,
        best=best,
        interval=interval(best, rule.metric) if best else None,
        next_best=_next_best(eligible, rule, metrics),
        neighbour=_neighbour(eligible, rule, metrics),
        better_but_out=_better_but_out(ranking),
        relaxations=tuple(relaxations(ranking)),
        references=starts,
        effects=tuple(main_effects(measured, starts, metrics)),
        interactions=tuple(interactions(measured, few, metrics)),
    )


def _next_best(eligible: Sequence[MeasuredCell], rule: Rule, metrics: Sequence[str]) -> Rival | None:
    if len(eligible) < 2:
        return None
    switches = [switch for switch, cell in neighbours(eligible[1:2], eligible[0])]
    return _rival(eligible, 1, switches[0] if switches else None, rule, metrics)


def _neighbour(eligible: Sequence[MeasuredCell], rule: Rule, metrics: Sequence[str]) -> Rival | None:
    if not eligible:
        return None
    switch, cell = next(neighbours(eligible, eligible[0]), (None, None))
    return _rival(eligible, eligible.index(cell), switch, rule, metrics) if cell else None


def _rival(
    eligible: Sequence[MeasuredCell], position: int, switch: str | None, rule: Rule, metrics: Sequence[str]
) -> Rival:
    best, cell = eligible[0], eligible[position]
    pair = [(best.record, cell.record)]
    deltas = {metric: delta for metric in metrics if (delta := change(pair, metric))}
    return Rival(cell, position + 1, switch, deltas, in_noise(best, cell, rule.metric))


def _better_but_out(ranking: CellRanking) -> tuple[RankedCell, ...]:
    """Those that would be ahead of the best, or of each other, but for a constraint; best first."""
    rule = ranking.rule
    best = rule.objective.of(ranking.best) if ranking.best else None
    valued = [
        (gain, trial)
        for trial in ranking.trials
        if trial.rank is None and trial.record.result is not None
        if trial.record.result.outcome is Outcome.COMPLETED
        if (gain := rule.objective.of(trial.record)) is not None
    ]
    valued.sort(key=lambda item: item[0], reverse=True)
    return tuple(trial for gain, trial in valued if best is None or gain > best)


def reasons(choice: Choice) -> list[str]:
    """Why the best cell won, or why none did: one sentence each."""
    if choice.best is None:
        return _why_none(choice)
    rule, record = choice.ranking.rule, choice.best.record
    value = phrase(rule.metric, record.metric(rule.metric))
    found = [f"{value}{_place(choice)}."]
    if choice.interval:
        low, high = (phrase(rule.metric, bound) for bound in (choice.interval.low, choice.interval.high))
        found.append(f"Its interval is {low} to {high} ({choice.interval.meaning()}).")
    return found + _about_rivals(choice)


def _place(choice: Choice) -> str:
    """What the best cell's value is among the eligible ones."""
    rule = choice.ranking.rule
    eligible = [row.record for row in choice.ranking.eligible]
    if len(eligible) == 1:
        return "; the only eligible cell"
    way = rule.objective.way
    values = {record.number: record.metric(rule.metric) or 0 for record in eligible}
    leader = max(values, key=lambda number: rule.objective.gain(values[number]))
    if values[leader] == values[eligible[0].number]:
        return f", the {way} {rule.metric} of {len(eligible)} eligible cells"
    return (
        f", within the noise of trial {leader} with {phrase(rule.metric, values[leader])}, the {way} "
        f"{rule.metric} of {len(eligible)} eligible cells"
    )


def _about_rivals(choice: Choice) -> list[str]:
    rule, found = choice.ranking.rule, []
    if remark := next((trial.remark for trial in choice.ranking.trials if trial.rank == 1), ""):
        assert choice.best is not None
        second = phrase(rule.second.metric, choice.best.record.metric(rule.second.metric))
        found.append(
            f"{remark[0].upper()}{remark[1:]} ({second}). Take them as equally good, or measure them again."
        )
    if out := choice.better_but_out:
        better = "more" if rule.objective.maximize else "less"
        first = out[0]
        have, are = ("cell has", "is") if len(out) == 1 else ("cells have", "are")
        found.append(
            f"{len(out)} {have} {better} {rule.metric} but {are} out, first trial {first.record.number} "
            f"({phrase(rule.metric, first.record.metric(rule.metric))}): {'; '.join(first.violations)}."
        )
    return found


def _why_none(choice: Choice) -> list[str]:
    trials = choice.ranking.trials
    if not trials:
        return ["No trial has ended yet."]
    found = [f"None of {len(trials)} cells satisfies the rule."]
    for item in choice.relaxations:
        moved = " and ".join(
            f"constraint.{name} from {item.before[name]:g} to {limit:g}"
            for name, limit in item.limits.items()
        )
        value = phrase(choice.ranking.rule.metric, item.record.metric(choice.ranking.rule.metric))
        found.append(f"Relax {moved}: then trial {item.record.number} is best with {value}.")
    if not choice.relaxations and choice.better_but_out:
        first = choice.better_but_out[0]
        found.append(f"Trial {first.record.number} would be first but for: {'; '.join(first.violations)}.")
    elif not choice.relaxations:
        found.append("No limit keeps them out: none completed with its objective measured.")
    return found


def effect_sentence(effect: Effect) -> str:
    """A main effect in one line."""
    told_of = ((METRICS[metric], effect.deltas.get(metric)) for metric in MAIN_METRICS)
    parts = [
        f"{change_text(metric.name, delta.mean, delta.ratio)} {metric.quantity.unit or metric.heading}"
        for metric, delta in told_of
        if delta is not None
    ]
    pairs = f"{effect.pairs} pair{'' if effect.pairs == 1 else 's'}"
    told = ", ".join(parts) or "nothing measured"
    return f"{effect.switch} {effect.before} → {effect.after}: {told} ({pairs})"


def to_json(choice: Choice) -> dict[str, Any]:
    """The verdict as plain JSON types."""
    return {
        "study": choice.study.name,
        "rule": choice.ranking.rule.to_json(),
        "best": _cell_json(choice.best) if choice.best else None,
        "interval": _interval_json(choice.interval),
        "why": reasons(choice),
        "next_best": _rival_json(choice.next_best),
        "neighbour": _rival_json(choice.neighbour),
        "better_but_out": [
            {"trial": trial.record.number, "violations": list(trial.violations)}
            for trial in choice.better_but_out
        ],
        "left_out": [{"trial": item.record.number, "why": item.why} for item in choice.ranking.left_out],
        "relaxations": [
            {"overrides": item.overrides(), "limits": item.limits, "before": item.before,
             "best": item.record.number}
            for item in choice.relaxations
        ],
        "references": choice.references,
        "effects": [dataclasses.asdict(effect) for effect in choice.effects],
        "interactions": [dataclasses.asdict(item) for item in choice.interactions],
        "ranking": [
            {"rank": trial.rank, "trial": trial.record.number, "violations": list(trial.violations),
             "remark": trial.remark or None}
            for trial in choice.ranking.trials
        ],
    }  # fmt: skip


def _cell_json(cell: MeasuredCell) -> dict[str, Any]:
    record = cell.record
    assert record.result is not None
    return {
        "trial": record.number,
        "trials": [trial.number for trial in cell.trials],
        "repeats": len(cell.completed),
        "settings": dict(cell.settings),
        "overrides": record.spec.overrides,
        "measurements": record.result.to_json()["measurements"],
    }


def _interval_json(found: Interval | None) -> dict[str, Any] | None:
    return {**dataclasses.asdict(found), "meaning": found.meaning()} if found else None


def _rival_json(rival: Rival | None) -> dict[str, Any] | None:
    if rival is None:
        return None
    return {
        **_cell_json(rival.cell),
        "rank": rival.rank,
        "switch": rival.switch,
        "in_noise": rival.in_noise,
        "deltas": {metric: dataclasses.asdict(delta) for metric, delta in rival.deltas.items()},
    }
