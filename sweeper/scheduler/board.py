"""The state of a study while it runs, for whoever shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sweeper.config.cell import Cell
from sweeper.contract.trial import TrialProgress
from sweeper.study.observer import Observer
from sweeper.study.records import TrialRecord

RECENT = 50
"""Trials behind the estimate of the time that is left."""


@dataclass(eq=False)
class CellState:
    """A cell of the running study."""

    label: str
    record: TrialRecord | None = None
    """Its settled trial, from this run or an earlier one."""
    reused: bool = False
    running: bool = False
    progress: TrialProgress | None = None
    """The last line that the running trial wrote."""
    began_s: float | None = None
    """When its trial was started."""


@dataclass
class Board(Observer):
    """The state of the study while it runs."""

    total: int | None = None
    """Cells in all, where that is known."""
    slots: int = 1
    states: dict[str, CellState] = field(default_factory=dict)
    """The cells that were proposed so far, by their keys and in that order."""
    done: int = 0
    reused: int = 0
    """Cells that were measured by an earlier run."""
    ran: int = 0
    """Trials of this run."""
    started_s: float = field(default_factory=time.monotonic)
    trial_times_s: list[float] = field(default_factory=list)
    """Durations of the last trials of this run."""

    @property
    def cells(self) -> list[CellState]:
        return list(self.states.values())

    def reuse(self, trial: TrialRecord) -> None:
        """A cell was measured before; it is counted once."""
        if trial.spec.key not in self.states:
            self.states[trial.spec.key] = CellState(trial.label, trial, reused=True)
            self.done += 1
            self.reused += 1

    def on_start(self, trial: TrialRecord) -> None:
        self.states[trial.spec.key] = CellState(trial.label, running=True, began_s=time.monotonic())

    def on_line(self, trial: TrialRecord, line: TrialProgress) -> None:
        self.states[trial.spec.key].progress = line

    def on_end(self, trial: TrialRecord) -> None:
        state = self.states.setdefault(trial.spec.key, CellState(trial.label))
        state.running = False
        if trial.is_settled:
            state.record = trial
        self.done += 1
        if state.began_s is not None:
            self.ran += 1
            took_s = time.monotonic() - state.began_s
            self.trial_times_s = [*self.trial_times_s[1 - RECENT :], took_s]

    def time_left_s(self) -> float | None:
        """Mean time of the last trials times the cells that are left; None while either is unknown."""
        if not self.trial_times_s or self.total is None:
            return None
        mean_s = sum(self.trial_times_s) / len(self.trial_times_s)
        return mean_s * max(0, self.total - self.done) / self.slots


Listener = Callable[[Board, str | None], None]
"""Called after every change, with a line when there is something to say."""


def begun(asked: Cell, measured: Cell, stage: str) -> str:
    """What begins: the cell, the micro batch where the prediction has chosen it, and who asked."""
    micro = f", batch.micro is {measured.config.batch.micro}" if asked.config.batch.micro == "auto" else ""
    return f"{asked.label}{micro}" + (f" ({stage})" if stage else "")


def ended(record: TrialRecord) -> str:
    """One line about a trial that has ended."""
    assert record.result is not None
    speed, loss = record.metric("tokens_per_s"), record.metric("eval_loss")
    parts = [f"trial {record.number} {record.result.outcome.value}: {record.label}"]
    if speed is not None:
        parts.append(f"{speed:,.0f} tokens/s")
    if (peak := record.metric("peak_memory_bytes")) is not None:
        parts.append(f"peak {peak / 2**20:,.0f} MiB")
    if loss is not None:
        parts.append(f"eval loss {loss:.4f}")
    if record.result.reason:
        parts.append(record.result.reason)
    return ", ".join(parts)
