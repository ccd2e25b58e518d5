"""What each switch bought: differences between cells that differ in nothing else.

No model is fitted. A *main effect* is the mean over all pairs of completed cells that differ in that
switch alone; an *interaction* is how far the effect of two switches together lies from the sum (for a
ratio: the product) of their effects alone, over all squares of four cells.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

from sweeper.analysis.cells import MeasuredCell, setting_of
from sweeper.contract.measurements import MAIN_METRICS, METRICS
from sweeper.contract.trial import Outcome
from sweeper.study.records import StudyRecord, TrialRecord


@dataclass(frozen=True)
class Delta:
    """How a metric changed over several pairs."""

    mean: float
    """Mean of `after - before`."""
    lowest: float
    highest: float
    ratio: float | None
    """Median of `after / before`."""
    pairs: int


@dataclass(frozen=True)
class Effect:
    """What setting a switch from `before` to `after` did."""

    switch: str
    before: str
    after: str
    deltas: Mapping[str, Delta]
    """Metric -> its change; without the metrics that were not measured."""
    pairs: int
    """Pairs of completed cells behind it."""
    lost: int
    """Pairs of which only the cell with `before` completed."""
    gained: int
    """Pairs of which only the cell with `after` completed."""


@dataclass(frozen=True)
class Interaction:
    """How two changes act together, beyond what each does alone."""

    first: tuple[str, str, str]
    """Switch, before, after."""
    second: tuple[str, str, str]
    excess: Mapping[str, float]
    """Of a rate: factor on the product of both ratios (1: independent). Others: what is added to
    the sum of both differences (0: independent)."""
    squares: int
    """Squares of four completed cells behind it."""


def references(study: StudyRecord, measured: Sequence[MeasuredCell]) -> dict[str, str]:
    """The setting of each switch that effects start from: the one that holds when nothing is said, or
    else the first that was asked for."""
    found = {}
    for key in measured[0].settings if measured else ():
        present = order_of_settings(study, measured, key)
        base = _base_setting(study, measured, key)
        found[key] = base if base in present else present[0]
    return found


def order_of_settings(study: StudyRecord, measured: Sequence[MeasuredCell], key: str) -> list[str]:
    """The settings of a switch that occur, as they were asked for; numbers by size."""
    present = {cell.settings[key] for cell in measured}
    asked = study.swept.get(key)
    listed = [str(value) for value in asked] if isinstance(asked, list | tuple) else []
    rest = sorted(present - set(listed), key=_by_size)
    return [value for value in listed if value in present] + rest


def _by_size(value: str) -> tuple[int, float, str]:
    try:
        return (0, float(value), value)
    except ValueError:
        return (1, 0.0, value)


def _base_setting(study: StudyRecord, measured: Sequence[MeasuredCell], key: str) -> str | None:
    """The study's own setting of a switch, named as in the cells that have it."""
    base = setting_of(study.config, key)
    if base is None:
        return None
    same = (cell for cell in measured if _same(setting_of(cell.trials[0].spec.config, key), base))
    return next((cell.settings[key] for cell in same), None)


def _same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


def neighbours(measured: Sequence[MeasuredCell], of: MeasuredCell) -> Iterator[tuple[str, MeasuredCell]]:
    """The cells that differ from one in a single switch, with that switch."""
    for cell in measured:
        changed = [key for key, value in of.settings.items() if cell.settings[key] != value]
        if len(changed) == 1:
            yield changed[0], cell


def main_effects(
    measured: Sequence[MeasuredCell], starts: Mapping[str, str], metrics: Sequence[str] = MAIN_METRICS
) -> list[Effect]:
    """The effect of every setting of every switch against its reference, where a pair shows it."""
    found = []
    for switch, start in starts.items():
        settings = dict.fromkeys(cell.settings[switch] for cell in measured)
        for setting in settings:
            pairs = list(_pairs(measured, switch, start, setting))
            if setting != start and pairs:
                found.append(_effect(switch, start, setting, pairs, metrics))
    return found


Pair = tuple[MeasuredCell, MeasuredCell]


def _pairs(measured: Sequence[MeasuredCell], switch: str, start: str, setting: str) -> Iterator[Pair]:
    """Cells with both settings of a switch and everything else equal."""
    before = {_others(cell, switch): cell for cell in measured if cell.settings[switch] == start}
    for cell in measured:
        if cell.settings[switch] == setting and (partner := before.get(_others(cell, switch))):
            yield partner, cell


def _others(cell: MeasuredCell, *switches: str) -> tuple[str, ...]:
    return tuple(value for key, value in cell.settings.items() if key not in switches)


def _effect(switch: str, start: str, setting: str, pairs: Sequence[Pair], metrics: Sequence[str]) -> Effect:
    whole = [pair for pair in pairs if pair[0].completed and pair[1].completed]
    records = [(before.record, after.record) for before, after in whole]
    deltas = {metric: delta for metric in metrics if (delta := change(records, metric))}
    lost = sum(1 for before, after in pairs if before.completed and _did_not_fit(after))
    gained = sum(1 for before, after in pairs if after.completed and _did_not_fit(before))
    return Effect(switch, start, setting, deltas, len(whole), lost, gained)


def _did_not_fit(cell: MeasuredCell) -> bool:
    result = cell.trials[-1].result
    failed = (Outcome.OUT_OF_MEMORY, Outcome.PREDICTED_OOM, Outcome.DIVERGED, Outcome.TIMED_OUT)
    return not cell.completed and result is not None and result.outcome in failed


def change(pairs: Sequence[tuple[TrialRecord, TrialRecord]], metric: str) -> Delta | None:
    """How a metric changed over pairs of records; None when no pair has it on both sides."""
    known = [
        (one, other)
        for before, after in pairs
        if (one := before.metric(metric)) is not None and (other := after.metric(metric)) is not None
    ]
    if not known:
        return None
    differences = [other - one for one, other in known]
    ratios = [other / one for one, other in known if one > 0]
    ratio = median(ratios) if ratios else None
    return Delta(mean(differences), min(differences), max(differences), ratio, len(known))


def interactions(
    measured: Sequence[MeasuredCell], starts: Mapping[str, str], metrics: Sequence[str] = MAIN_METRICS
) -> list[Interaction]:
    """Every pair of changes that some square of four completed cells shows."""
    completed = [cell for cell in measured if cell.completed]
    found = []
    for one, other in itertools.combinations(starts, 2):
        squares = _squares(completed, one, other, starts[one], starts[other])
        for (after_one, after_other), corners in squares.items():
            excess = {metric: value for metric in metrics if (value := _excess(corners, metric)) is not None}
            changes = (one, starts[one], after_one), (other, starts[other], after_other)
            found.append(Interaction(*changes, excess, len(corners)))
    return found


Square = tuple[TrialRecord, TrialRecord, TrialRecord, TrialRecord]
"""Neither change, the first, the second, both."""


def _squares(
    cells: Sequence[MeasuredCell], one: str, other: str, start_one: str, start_other: str
) -> dict[tuple[str, str], list[Square]]:
    """The squares of two switches by their settings, everything else equal within each."""
    planes: dict[tuple[str, ...], dict[tuple[str, str], TrialRecord]] = {}
    for cell in cells:
        place = cell.settings[one], cell.settings[other]
        planes.setdefault(_others(cell, one, other), {})[place] = cell.record
    found: dict[tuple[str, str], list[Square]] = {}
    for plane in planes.values():
        origin = plane.get((start_one, start_other))
        for (first, second), both in plane.items():
            alone, second_alone = plane.get((first, start_other)), plane.get((start_one, second))
            if first != start_one and second != start_other and origin and alone and second_alone:
                found.setdefault((first, second), []).append((origin, alone, second_alone, both))
    return found


def _excess(squares: Sequence[Square], metric: str) -> float | None:
    values = []
    for square in squares:
        corners = [value for record in square if (value := record.metric(metric)) is not None]
        if len(corners) < 4:
            continue
        neither, first, second, both = corners
        if METRICS[metric].quantity.is_rate:
            values.append(both * neither / (first * second))
        else:
            values.append(both - first - second + neither)
    return mean(values) if values else None
