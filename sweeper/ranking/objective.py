"""What a trial is to be best in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sweeper.contract.study_config import DEFAULT_OBJECTIVE, ObjectiveConfig
from sweeper.study.records import TrialRecord


@dataclass(frozen=True)
class Objective:
    """One metric and which way is better."""

    metric: str
    maximize: bool

    @property
    def key(self) -> str:
        """The option that names it."""
        return "objective.maximize" if self.maximize else "objective.minimize"

    @property
    def way(self) -> str:
        """Where the best lies, for a person."""
        return "highest" if self.maximize else "lowest"

    def gain(self, value: float) -> float:
        """The value turned so that more is better."""
        return value if self.maximize else -value

    def of(self, record: TrialRecord) -> float | None:
        """The trial's gain, or None when it was not measured."""
        value = record.metric(self.metric)
        return None if value is None else self.gain(value)


SPEED = Objective("tokens_per_s", maximize=True)
MEMORY = Objective("peak_memory_bytes", maximize=False)


def parse_objectives(config: ObjectiveConfig) -> tuple[Objective, ...]:
    """The objectives in the order of the configuration, those to maximise first; throughput if none."""
    asked = tuple(
        Objective(metric, maximize)
        for names, maximize in ((config.maximize, True), (config.minimize, False))
        for metric in _each(names)
    )
    return asked or (Objective(DEFAULT_OBJECTIVE, maximize=True),)


def _each(asked: str | Sequence[str] | None) -> Iterator[str]:
    if isinstance(asked, str):
        yield asked
    elif asked is not None:
        yield from asked
