"""When a study ends although cells are left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sweeper.contract.study_config import BudgetConfig, duration_s
from sweeper.contract.trial import Outcome
from sweeper.study.observer import Observer
from sweeper.study.records import TrialRecord

NOT_RUN = (Outcome.PREDICTED_OOM, Outcome.INVALID)


@dataclass
class Budget(Observer):
    """What may be spent and what has been, over all runs of a study."""

    limits: BudgetConfig
    trials: int = 0
    device_s: float = 0.0
    earlier_s: float = 0.0
    """Time in which earlier runs of the study had trials running."""
    began_s: float = field(default_factory=time.monotonic)

    def take_stock(self, records: Iterable[TrialRecord]) -> None:
        """Count what earlier runs of the study have spent."""
        spans, unplaced_s = [], 0.0
        for record in records:
            self.on_end(record)
            if record.result and not record.result.started_at:  # its driver died: when, nobody knows
                unplaced_s += record.result.measurements.total_time_s or 0.0
            elif record.result and record.result.started_at and record.result.ended_at:
                spans.append((_seconds(record.result.started_at), _seconds(record.result.ended_at)))
        self.earlier_s = covered_s(spans) + unplaced_s

    def on_end(self, trial: TrialRecord) -> None:
        """Count a trial that has ended. One that was cancelled runs again: only its time is spent."""
        if trial.result is not None and trial.result.outcome not in NOT_RUN:
            self.trials += trial.result.outcome.is_final
            self.device_s += trial.result.measurements.total_time_s or 0.0

    def used_up(self, running: int) -> str | None:
        """Which limit keeps another trial from beginning, said to a person; None when none does."""
        limits = self.limits
        if limits.trials is not None and self.trials + running >= limits.trials:
            return f"budget.trials={limits.trials}"
        allowed_s = None if limits.time is None else duration_s(limits.time)
        if allowed_s is not None and self.earlier_s + time.monotonic() - self.began_s >= allowed_s:
            return f"budget.time={limits.time}"
        if limits.device_hours is not None and self.device_s / 3600 >= limits.device_hours:
            return f"budget.device_hours={limits.device_hours:g}"
        return None


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
