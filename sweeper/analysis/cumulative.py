"""The cumulative effect: from a baseline to the best cell, one switch at a time, through measured cells.

Savings are easily overstated by the choice of what they are compared with, so there are two baselines:
plain fp32, and plain 16-bit, which anyone who cares for memory starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeper.analysis.cells import MeasuredCell, setting_of

BASELINES: dict[str, tuple[str, ...]] = {"fp32": ("fp32",), "16-bit": ("fp16", "bf16", "bf16_pure")}
"""Name of a baseline -> the values of `precision` that it may have."""


@dataclass(frozen=True)
class Stage:
    """A cell on the way, and what was added to get there."""

    cell: MeasuredCell
    switch: str | None = None
    """None for the baseline itself."""

    @property
    def label(self) -> str:
        return "baseline" if self.switch is None else f"{self.switch}={self.cell.settings[self.switch]}"


@dataclass(frozen=True)
class Way:
    """From a baseline towards a cell."""

    baseline: str
    """A key of BASELINES."""
    stages: tuple[Stage, ...]
    arrives: bool
    """Whether the last stage is the cell that was aimed at."""


def ways(measured: Sequence[MeasuredCell], starts: Mapping[str, str], goal: MeasuredCell) -> list[Way]:
    """A way from each baseline that the study has; the longest that was measured where none arrives."""
    found = []
    for name, precisions in BASELINES.items():
        baseline = _baseline(measured, starts, precisions)
        if baseline is not None:
            stages = _way(measured, baseline, goal)
            found.append(Way(name, stages, stages[-1].cell.settings == goal.settings))
    return found


def _baseline(
    measured: Sequence[MeasuredCell], starts: Mapping[str, str], precisions: Sequence[str]
) -> MeasuredCell | None:
    """The plainest completed cell of a precision: nothing quantised, fewest switches off their references."""
    plain = [
        cell
        for cell in measured
        if cell.completed
        and setting_of(cell.trials[0].spec.config, "precision") in precisions
        and setting_of(cell.trials[0].spec.config, "quantization") == "none"
    ]
    return min(plain, key=lambda cell: _distance(cell.settings, starts), default=None)


def _distance(settings: Mapping[str, str], starts: Mapping[str, str]) -> int:
    return sum(settings[key] != start for key, start in starts.items() if key != "precision")


def _way(measured: Sequence[MeasuredCell], baseline: MeasuredCell, goal: MeasuredCell) -> tuple[Stage, ...]:
    """The way that saves the most memory first, turning back where a cell was not measured."""
    cells = {tuple(cell.settings.values()): cell for cell in measured if cell.completed}
    longest: list[Stage] = [Stage(baseline)]
    dead_ends: set[tuple[str, ...]] = set()

    def walk(way: list[Stage]) -> bool:
        nonlocal longest
        here = way[-1].cell
        longest = max(longest, way, key=len)
        if here.settings == goal.settings:
            longest = way
            return True
        for following in _next_stages(cells, here, goal):
            if tuple(following.cell.settings.values()) not in dead_ends and walk([*way, following]):
                return True
        dead_ends.add(tuple(here.settings.values()))
        return False

    walk([Stage(baseline)])
    return tuple(longest)


def _next_stages(
    cells: Mapping[tuple[str, ...], MeasuredCell], here: MeasuredCell, goal: MeasuredCell
) -> list[Stage]:
    """The measured cells that are one switch nearer to the goal, least memory first."""
    found = []
    for key, value in goal.settings.items():
        if here.settings[key] != value and (
            cell := cells.get(tuple((here.settings | {key: value}).values()))
        ):
            found.append(Stage(cell, key))
    return sorted(found, key=lambda stage: stage.cell.record.metric("peak_memory_bytes") or 0)
