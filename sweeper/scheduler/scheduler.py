"""The loop: ask -> launch -> watch -> record -> tell; a slot takes the next cell as soon as it is free.

The trial folders are the truth. Optuna and MLflow are told from them, by this process alone, so that a
driver that is killed at any moment is continued by the next one. What comes next is the strategy's to
say (`asking`, `strategies`); here it is only carried out, and the observers are told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sweeper.analysis.asked import select_asked
from sweeper.config.cell import Cell
from sweeper.contract.config import Config
from sweeper.contract.trial import Outcome, TrialResult
from sweeper.launchers.base import Launcher
from sweeper.preflight.slots import Idle, Slot
from sweeper.scheduler.board import begun
from sweeper.scheduler.observers import Observers
from sweeper.scheduler.past import read_past
from sweeper.scheduler.running import Running
from sweeper.scheduler.specs import Specs
from sweeper.space.space import Space
from sweeper.strategies.asking import Asking
from sweeper.strategies.base import Proposal
from sweeper.study.folder import StudyFolder
from sweeper.study.records import Lean, StudyRecord, TrialRecord

POLL_S = 0.2
"""How often a running trial is looked at; more often would take time from it on a small machine."""

Screen = Callable[[Config], TrialResult | None]
"""Says how a trial would end that need not be started; None for one that must be."""


@dataclass
class Scheduler:
    """One run of one study."""

    study: StudyRecord
    folder: StudyFolder
    space: Space
    asking: Asking
    specs: Specs
    slots: Sequence[Slot]
    launcher: Launcher
    observers: Observers
    show: Callable[[str | None], None]
    """Called after every change, with a line when there is something to say."""
    screens: Sequence[Screen]
    """Asked in turn before a trial is started."""
    left: str | None = None
    """Why the study ended although cells were left."""
    _settled: dict[str, TrialRecord] = field(default_factory=dict)
    _running: dict[str, Running] = field(default_factory=dict)
    _next_number: int = 0
    _waits: bool = False
    """Whether a cell waits for a GPU on which another process computes."""

    def __post_init__(self) -> None:
        self._idle = Idle(self.show)
        self._lean = Lean().of
        self.asking.question.slots = len(self.slots)

    def settle(self) -> None:
        """Bring the observers and the strategy up to what lies in the folders. Raises StorageError."""
        config = self.space.config
        own = read_past(self.folder, self.study.generation, progress=config.pruner != "none")
        settled = [trial for trial in own if self._is_settled(trial, config)]
        self._settled = {trial.spec.key: self._lean(trial) for trial in settled}
        self.observers.take_up(own, settled, select_asked(self.study, settled).kept)
        self._next_number = self.observers.ledger.settle()
        lean = [self._lean(trial) for trial in own]
        self.asking.replay(lean, self._settled, self.specs.key, lambda _, trial: self._show_reused(trial))

    def _is_settled(self, trial: TrialRecord, config: Config) -> bool:
        outcome = trial.result.outcome if trial.result else Outcome.CANCELLED
        if outcome is Outcome.PREDICTED_OOM and self.specs.memory.has_changed(trial, config):
            return False
        return outcome.is_final and outcome.value not in config.study.retry

    def missing(self) -> list[Cell]:
        """The cells of a grid that have no result yet."""
        proposals = [Proposal(cell) for cell in self.space.cells]
        return [item.cell for item in proposals if self.specs.key(item) not in self._settled]

    def is_over(self) -> bool:
        """Whether everything that is asked for was settled by earlier runs."""
        if not self.asking.unmeasured and (proposal := self._unknown()) is not None:
            self.asking.unmeasured.append(proposal)
        return not self.asking.unmeasured

    def _unknown(self) -> Proposal | None:
        """The next proposal that has no result yet."""
        while (proposal := self.asking.propose()) is not None:
            known = self._settled.get(self.specs.key(proposal))
            if known is None:
                return proposal
            self._reuse(proposal, known)
        return None

    def run(self) -> None:
        """Run what the strategy asks for. Raises KeyboardInterrupt after tidying up."""
        try:
            while True:
                self._fill()
                if not self._running and not self._waits:
                    break
                self.launcher.wait(POLL_S)
                for running in list(self._running.values()):
                    self._watch(running)
                self.show(None)
        finally:
            for running in list(self._running.values()):
                running.cancel()
                self._end(running)
            self.asking.close()
            self.observers.ledger.close()

    def _fill(self) -> None:
        """Give every free slot a cell."""
        self._waits = False
        while len(self._running) < len(self.slots) and self.left is None and not self._waits:
            proposal = self._next()
            if proposal is None:
                return
            key = self.specs.key(proposal)
            if key in self._settled:
                self._reuse(proposal, self._settled[key])
            elif key in self._running:
                self._running[key].proposals.append(proposal)
            else:
                self._begin(proposal)

    def _next(self) -> Proposal | None:
        return self.asking.unmeasured.pop(0) if self.asking.unmeasured else self.asking.propose()

    def _reuse(self, proposal: Proposal, trial: TrialRecord) -> None:
        """The cell was measured before."""
        self.asking.tell(proposal, trial)
        self._show_reused(trial)

    def _show_reused(self, trial: TrialRecord) -> None:
        self.observers.board.reuse(trial)

    def _begin(self, proposal: Proposal) -> None:
        """Start the trial of a new cell, or settle it when that needs no trial."""
        cell = self.specs.fit(proposal)
        screened = next(filter(None, (screen(cell.config) for screen in self.screens)), None)
        if screened is None and (spent := self.observers.budget.used_up(len(self._running))) is not None:
            self.left = self._what_is_left(spent, proposal)
            return
        slot = self._free_slot(None if screened else cell.config.trial.require_idle_device)
        if slot is None:
            self._waits = True
            self.asking.unmeasured.insert(0, proposal)
            return
        trial = self._specify(proposal, cell, slot)
        if screened is None:
            self._launch(trial, proposal, cell, slot)
        else:
            trial.folder.write_result(screened)
            self._record(replace(trial, result=screened), [proposal])

    def _free_slot(self, mode: str | None) -> Slot | None:
        """One without a trial and, unless `mode` is None, without another process on its GPU."""
        taken = {running.slot.number for running in self._running.values()}
        free = (slot for slot in self.slots if slot.number not in taken)
        return next((slot for slot in free if mode is None or self._idle.is_free(slot, mode)), None)

    def _specify(self, proposal: Proposal, cell: Cell, slot: Slot) -> TrialRecord:
        """Make the folder of a trial, which from now on is one of the study's."""
        spec = self.specs.compose(self._next_number, proposal, cell, slot, self.asking.heard())
        folder = self.folder.trial(spec.number)
        folder.write_spec(spec)
        self._next_number += 1
        return TrialRecord(spec, None, folder)

    def _launch(self, trial: TrialRecord, proposal: Proposal, cell: Cell, slot: Slot) -> None:
        self.observers.on_start(trial)
        self.show(f"trial {trial.number} started: {begun(proposal.cell, cell, proposal.stage)}")
        folder = trial.folder
        job = self.launcher.submit("trial", folder.path, folder.stdout, folder.stderr)
        self._running[trial.spec.key] = Running(trial, job, slot, [proposal], cell.config.trial.timeout_s)

    def _watch(self, running: Running) -> None:
        """Follow a trial, end it when it should, and record it when it has."""
        is_done = running.job.done()  # first: what it wrote before it ended is read below
        reasons = [self.observers.on_line(running.trial, line) for line in running.lines()]
        if is_done:
            self._end(running)
            return
        if running.is_prunable and (reason := next(filter(None, reasons), None)) is not None:
            running.stop(Outcome.PRUNED, reason)
        running.enforce_time()

    def _end(self, running: Running) -> None:
        """Record a trial that has ended or was killed."""
        del self._running[running.trial.spec.key]
        self._record(replace(running.trial, result=running.result()), running.proposals)

    def _record(self, trial: TrialRecord, proposals: Sequence[Proposal]) -> None:
        """Tell everybody how a trial ended; of a cancelled one the strategy hears nothing."""
        trial = self._lean(trial)
        self.observers.on_end(trial)
        if trial.is_settled:
            self._settled[trial.spec.key] = trial
            for proposal in proposals:
                self.asking.tell(proposal, trial)

    def _what_is_left(self, spent: str, refused: Proposal) -> str:
        board = self.observers.board
        if board.total is None:
            begins = begun(refused.cell, refused.cell, refused.stage)
            left = f"the next of the cells that are left is {begins}"
        else:
            left = f"{max(0, board.total - board.done - len(self._running))} cells are left"
        return f"{spent} is used up: {left}; the same command with more of it goes on"
