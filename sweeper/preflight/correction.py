"""Finished trials correct the prediction of memory for their study: what the code paths have in common.

A code path is what decides which kernels run and what they keep. The correction of a path is the median of
what its finished trials measured beyond the prediction: a factor and, with trials of different sizes, a
constant. A path without trials takes the correction of all; a study without trials corrects nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeper.contract.config import from_dict
from sweeper.contract.trial import Outcome
from sweeper.study.records import TrialRecord

PATH = ("trainer", "adapter", "quantization", "precision", "attention", "checkpointing")
"""Options that decide a trial's code path."""
FACTORS = (0.8, 1.25)
"""Limits of the factor: more than a quarter is no residual, and is left to the constant."""
MOST_POINTS = 50
"""Trials of a code path that are remembered, the latest ones: the fit looks at all pairs."""
FEW = 3
"""Trials below which a path has a constant only: a slope through two points is noise."""

Point = tuple[float, float]
"""Predicted and measured bytes of one trial."""


@dataclass(frozen=True)
class Correction:
    """`corrected = factor * predicted + constant_bytes`."""

    factor: float = 1.0
    constant_bytes: float = 0.0
    trials: int = 0
    """Trials of the code path itself that it rests on."""

    def of(self, predicted_bytes: int) -> int:
        """The corrected prediction."""
        return round(self.factor * predicted_bytes + self.constant_bytes)


def path_of(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """The code path of a configuration, as it stands in `spec.json`."""
    return (*(config.get(name) for name in PATH), from_dict(config).held_dtype)


class Corrections:
    """The corrections of one study, by code path."""

    def __init__(self, records: Iterable[TrialRecord] = ()) -> None:
        self._points: dict[tuple[Any, ...], list[Point]] = {}
        for record in records:
            self.learn(record)

    def learn(self, record: TrialRecord) -> None:
        """Take a finished trial into account."""
        predicted, measured = record.metric("predicted_memory_bytes"), record.metric("peak_memory_bytes")
        completed = record.result is not None and record.result.outcome is Outcome.COMPLETED
        if completed and predicted and measured:
            points = self._points.setdefault(path_of(record.spec.config), [])
            points.append((predicted, measured))
            del points[:-MOST_POINTS]

    def of(self, config: Mapping[str, Any]) -> Correction:
        """The correction for a configuration."""
        own = self._points.get(path_of(config))
        if own:
            return replace(fitted(own), trials=len(own))
        return fitted([point for points in self._points.values() for point in points])


def fitted(points: Sequence[Point]) -> Correction:
    """The correction that leaves the median residual at zero (Theil–Sen: the median of all slopes)."""
    if not points:
        return Correction()
    slopes = [
        (right[1] - left[1]) / (right[0] - left[0])
        for index, left in enumerate(points)
        for right in points[index + 1 :]
        if abs(right[0] - left[0]) > 0.05 * left[0]
    ]
    factor = 1.0
    if len(points) >= FEW and slopes:
        factor = min(max(statistics.median(slopes), FACTORS[0]), FACTORS[1])
    return Correction(
        factor, statistics.median(measured - factor * predicted for predicted, measured in points)
    )
