"""What makes a trial better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sweeper.config import DEFAULT_OBJECTIVE
from sweeper.records import TrialRecord
from sweeper.schema import ObjectiveConfig

PROBED_METRICS = (
    "tokens_per_s padded_tokens_per_s step_time_s peak_memory_bytes peak_memory_train_bytes "
    "peak_memory_load_bytes peak_memory_reserved_bytes peak_memory_allocated_bytes device_memory_bytes "
    "optimizer_state_bytes trainable_parameters energy_per_token_j cost_per_million_tokens"
).split()
"""Metrics that a few steps tell: those of a full training, but for noise."""


@dataclass(frozen=True)
class Objective:
    """One metric and which way is better."""

    metric: str
    maximize: bool

    @property
    def key(self) -> str:
        """The option that names it."""
        return "objective.maximize" if self.maximize else "objective.minimize"

    def gain(self, value: float) -> float:
        """The value turned so that more is better."""
        return value if self.maximize else -value

    def of(self, record: TrialRecord) -> float | None:
        """The trial's gain, or None when it was not measured."""
        value = record.metric(self.metric)
        return None if value is None else self.gain(value)


def objectives(config: ObjectiveConfig) -> tuple[Objective, ...]:
    """The objectives in the order of the configuration, those to maximise first; throughput if none."""
    asked = tuple(
        Objective(metric, maximize)
        for names, maximize in ((config.maximize, True), (config.minimize, False))
        for metric in _names(names)
    )
    return asked or (Objective(DEFAULT_OBJECTIVE, maximize=True),)


def _names(asked: str | Sequence[str] | None) -> Iterator[str]:
    if isinstance(asked, str):
        yield asked
    elif asked is not None:
        yield from asked
