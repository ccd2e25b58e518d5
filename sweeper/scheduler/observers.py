"""Who is told of trials while a study runs, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sweeper.contract.config import from_dict
from sweeper.contract.trial import TrialProgress
from sweeper.preflight.dominance import Dominance
from sweeper.preflight.memory import MemoryScreen
from sweeper.ranking.eligibility import Reference, is_baseline
from sweeper.ranking.rule import Rule
from sweeper.scheduler.board import Board, ended
from sweeper.scheduler.budget import Budget
from sweeper.scheduler.ledger import Ledger
from sweeper.scheduler.optuna_study import OptunaStudy, Say
from sweeper.scheduler.pruning import Pruning
from sweeper.space.space import Space
from sweeper.study.folder import StudyFolder
from sweeper.study.observer import Observer
from sweeper.study.records import StudyRecord, TrialRecord
from sweeper.tracking.tracker import Tracker


@dataclass
class Standard(Observer):
    """The loss that others are held against."""

    reference: Reference

    def on_end(self, trial: TrialRecord) -> None:
        if trial.is_settled:
            self.reference.hear(trial)


@dataclass
class EarlyStopping(Observer):
    """Ends trials that cannot be best."""

    pruning: Pruning
    reference: Reference
    rule: Rule

    def on_start(self, trial: TrialRecord) -> None:
        if self.pruning.is_on:
            self.pruning.begin(trial.number, from_dict(trial.spec.config), is_baseline(trial, self.rule))

    def on_line(self, trial: TrialRecord, line: TrialProgress) -> str | None:
        return self.pruning.hear(trial.number, line)

    def on_end(self, trial: TrialRecord) -> None:
        self.pruning.end(trial, self.reference.keeps_always(trial))

    def replay(self, trial: TrialRecord) -> None:
        """Take in a trial of an earlier run."""
        self.pruning.replay(trial, self.reference.keeps_always(trial), is_baseline(trial, self.rule))


@dataclass
class Reporting(Observer):
    """Tells a person and MLflow how trials ended."""

    tracker: Tracker
    say: Say

    def on_end(self, trial: TrialRecord) -> None:
        self.say(ended(trial))
        problem = self.tracker.log_trial(trial)
        if problem is not None:
            self.say(problem)


@dataclass
class Observers(Observer):
    """All of them. The loss that others are held against is known before those that need it are told."""

    budget: Budget
    dominance: Dominance
    memory: MemoryScreen
    standard: Standard
    stopping: EarlyStopping
    ledger: Ledger
    board: Board
    reporting: Reporting

    @property
    def _all(self) -> tuple[Observer, ...]:
        learning = (self.budget, self.dominance, self.memory, self.standard, self.stopping)
        return (*learning, self.ledger, self.board, self.reporting)

    def on_start(self, trial: TrialRecord) -> None:
        for observer in self._all:
            observer.on_start(trial)

    def on_line(self, trial: TrialRecord, line: TrialProgress) -> str | None:
        reasons = [observer.on_line(trial, line) for observer in self._all]
        return next(filter(None, reasons), None)

    def on_end(self, trial: TrialRecord) -> None:
        for observer in self._all:
            observer.on_end(trial)

    def take_up(
        self, trials: Iterable[TrialRecord], settled: Iterable[TrialRecord], comparable: Sequence[TrialRecord]
    ) -> None:
        """Learn from earlier runs: from all trials what was spent, from the settled ones what fits, and from
        those that answer what the study asks now what is good."""
        self.budget.take_stock(trials)
        for trial in settled:
            self.dominance.on_end(trial)
            self.memory.on_end(trial)
        for trial in comparable:
            self.standard.on_end(trial)
        for trial in comparable:
            self.stopping.replay(trial)


def gather_observers(
    study: StudyRecord,
    folder: StudyFolder,
    space: Space,
    memory: MemoryScreen,
    tracker: Tracker,
    board: Board,
    say: Say,
    before_opening: Callable[[], None],
) -> Observers:
    """The observers of a run; `before_opening` is called before Optuna's storage is opened."""
    config = space.config
    rule = Rule.of(config.objective, config.constraint)
    reference = Reference(rule)
    storage = config.study.storage or f"sqlite:///{folder.optuna.absolute()}"

    def connect() -> OptunaStudy:
        before_opening()
        return OptunaStudy(study.name, storage, rule, space.dimensions)

    return Observers(
        budget=Budget(config.budget),
        dominance=Dominance(),
        memory=memory,
        standard=Standard(reference),
        stopping=EarlyStopping(Pruning(config), reference, rule),
        ledger=Ledger(connect, storage, folder, lambda: reference.loss, say),
        board=board,
        reporting=Reporting(tracker, say),
    )
