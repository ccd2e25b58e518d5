"""The loop: ask -> launch -> watch -> record -> tell; a slot takes the next cell as soon as it is free.

The trial folders are the truth. Optuna and MLflow are told from them, by this process alone, so that a
driver that is killed at any moment is continued by the next one. What comes next is the strategy's to
say (`asking`, `strategies`); here it is only carried out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from sweeper.analysis.asked import select_asked
from sweeper.config.cell import Cell
from sweeper.contract.config import Config
from sweeper.contract.stamps import now
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from sweeper.launchers.base import Launcher
from sweeper.preflight.dominance import Dominance
from sweeper.preflight.inputs import Identities
from sweeper.preflight.memory import MemoryScreen
from sweeper.preflight.slots import Idle, Slot
from sweeper.ranking.eligibility import Reference, is_baseline
from sweeper.ranking.rule import Rule
from sweeper.scheduler.board import Board, CellState, Listener, begun, ended
from sweeper.scheduler.budget import Budget
from sweeper.scheduler.ledger import OptunaStudy
from sweeper.scheduler.pruning import Pruning
from sweeper.scheduler.running import Running, told
from sweeper.space.space import Space
from sweeper.strategies.asking import Asking
from sweeper.strategies.base import Proposal
from sweeper.study.folder import StudyFolder
from sweeper.study.masking import without_passwords
from sweeper.study.records import Lean, StudyRecord, TrialRecord
from sweeper.tracking.tracker import Tracker

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
    identities: Identities
    slots: Sequence[Slot]
    launcher: Launcher
    optuna: OptunaStudy
    tracker: Tracker
    board: Board
    listener: Listener
    cache_dir: Path
    budget: Budget
    screens: list[Screen] = field(default_factory=list)
    """Asked in turn before a trial is started."""
    memory: MemoryScreen | None = None
    """Predicts the memory of trials, and learns from those that ended."""
    left: str | None = None
    """Why the study ended although cells were left."""

    def __post_init__(self) -> None:
        self._config = self.space.config
        self._rule = Rule.of(self._config.objective, self._config.constraint)
        self._dominance = Dominance()
        sizing = [self.memory.refusal] if self.memory else []
        self.screens[:0] = [self.identities.verdict, *sizing, self._dominance.verdict]
        self._pruning = Pruning(self._config)
        self._settled: dict[str, TrialRecord] = {}
        self._running: dict[str, Running] = {}
        self._shown: set[str] = set()
        self._keys: WeakKeyDictionary[Proposal, str] = WeakKeyDictionary()
        self._idle = Idle(self.say)
        self._waits = False
        """Whether a cell waits for a GPU on which another process computes."""
        self._reference = Reference(self._rule)
        self._lean = Lean().of
        self.asking.question.slots = len(self.slots)

    def settle(self) -> None:
        """Bring Optuna and the strategy up to what lies in the folders."""
        records = {record.number: record for record in self.folder.read_trials(self._needs_progress)}
        for number, record in records.items():
            if record.result is None:
                cut_off = TrialResult(
                    Outcome.CANCELLED, "the driver died before the trial ended", ended_at=now()
                )
                warmup_steps = int(record.spec.config["trial"]["warmup_steps"])
                cut_off = told(cut_off, record.folder.read_progress(), warmup_steps)
                record.folder.write_result(cut_off)
                records[number] = replace(record, result=cut_off)
        own = [item for item in records.values() if item.spec.generation == self.study.generation]
        self.budget.take_stock(own)
        settled = [record for record in own if self._is_settled(record)]
        comparable = select_asked(self.study, settled).kept
        for record in settled:
            self._settled[record.spec.key] = self._lean(record)
            self._learn(record)
        for record in comparable:
            self._reference.hear(record)
        for record in comparable:
            self._pruning.replay(
                record, self._reference.keeps_always(record), is_baseline(record, self._rule)
            )
        self.optuna.catch_up(records, self.space.dimensions, self._reference.loss, self.folder.highest())
        self.asking.replay([self._lean(record) for record in own], self._settled, self._key, self.show)

    @property
    def _needs_progress(self) -> bool:
        return self._config.pruner != "none"

    def _is_settled(self, record: TrialRecord) -> bool:
        outcome = record.result.outcome if record.result else Outcome.CANCELLED
        if outcome is Outcome.PREDICTED_OOM and self.memory and self.memory.has_changed(record, self._config):
            return False
        return outcome.is_final and outcome.value not in self._config.study.retry

    def missing(self) -> list[Cell]:
        """The cells of a grid that have no result yet."""
        proposals = [Proposal(cell) for cell in self.space.cells]
        return [item.cell for item in proposals if self._key(item) not in self._settled]

    def is_over(self) -> bool:
        """Whether everything that is asked for was settled by earlier runs."""
        if not self.asking.unmeasured and (proposal := self._unknown()) is not None:
            self.asking.unmeasured.append(proposal)
        return not self.asking.unmeasured

    def _unknown(self) -> Proposal | None:
        """The next proposal that has no result yet."""
        while (proposal := self.asking.propose()) is not None:
            known = self._settled.get(self._key(proposal))
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
                self.listener(self.board, None)
        finally:
            for running in list(self._running.values()):
                running.cancel()
                self._end(running)
            self.asking.close()

    def _fill(self) -> None:
        """Give every free slot a cell."""
        self._waits = False
        while len(self._running) < len(self.slots) and self.left is None and not self._waits:
            proposal = self._next()
            if proposal is None:
                return
            known = self._settled.get(self._key(proposal))
            if known is not None:
                self._reuse(proposal, known)
            elif (running := self._running.get(self._key(proposal))) is not None:
                running.proposals.append(proposal)
            else:
                self._begin(proposal)

    def _next(self) -> Proposal | None:
        return self.asking.unmeasured.pop(0) if self.asking.unmeasured else self.asking.propose()

    def _key(self, proposal: Proposal) -> str:
        if proposal not in self._keys:
            self._keys[proposal] = self.identities.key_of_any(self._fitted(proposal), proposal.repeat)
        return self._keys[proposal]

    def _fitted(self, proposal: Proposal) -> Cell:
        """The cell as the slots measure it: all of them have equal shares of the machine. A micro batch
        that is left to the prediction is a number here."""
        cell = self.slots[0].fitted(proposal.cell)
        return self.memory.sized_if_possible(cell) if self.memory else cell

    def _reuse(self, proposal: Proposal, record: TrialRecord) -> None:
        """The cell was measured before."""
        self.asking.tell(proposal, record)
        self.show(proposal, record)

    def show(self, proposal: Proposal, record: TrialRecord) -> None:
        """Put a cell that was measured before on the board, once."""
        key = self._key(proposal)
        if key not in self._shown:
            self._shown.add(key)
            self.board.add(CellState(proposal.cell, key, proposal.stage, record, reused=True))

    def _begin(self, proposal: Proposal) -> None:
        """Start the trial of a new cell, or settle it when that needs no trial."""
        cell = self._fitted(proposal)
        screened = self._screened(cell.config)
        if screened is None and (spent := self.budget.used_up(len(self._running))) is not None:
            self.left = self._what_is_left(spent, proposal)
            return
        slot = self._free_slot(None if screened else cell.config.trial.require_idle_device)
        if slot is None:
            self._waits = True
            self.asking.unmeasured.insert(0, proposal)
            return
        key = self._key(proposal)
        state = CellState(proposal.cell, key, proposal.stage)
        self._shown.add(key)
        self.board.add(state)
        number = self.optuna.ask(cell.overrides, self.space.dimensions, key, proposal.stage)
        spec = self._spec(number, proposal, cell, slot)
        trial = self.folder.trial(number)
        trial.write_spec(spec)
        if screened is not None:
            trial.write_result(screened)
            self._settle(TrialRecord(spec, screened, trial), state, [proposal], None)
            return
        state.running = True
        self.say(f"trial {number} started: {begun(proposal.cell, cell, proposal.stage)}")
        self._pruning.begin(number, cell.config, is_baseline(TrialRecord(spec, None, trial), self._rule))
        job = self.launcher.submit("trial", trial.path, trial.stdout, trial.stderr)
        timeout_s = cell.config.trial.timeout_s
        self._running[key] = Running(spec, trial, job, slot, state, [proposal], timeout_s)

    def _screened(self, config: Config) -> TrialResult | None:
        return next((result for screen in self.screens if (result := screen(config)) is not None), None)

    def _free_slot(self, mode: str | None) -> Slot | None:
        """One without a trial and, unless `mode` is None, without another process on its GPU."""
        taken = {running.slot.number for running in self._running.values()}
        free = (slot for slot in self.slots if slot.number not in taken)
        return next((slot for slot in free if mode is None or self._idle.is_free(slot, mode)), None)

    def _spec(self, number: int, proposal: Proposal, cell: Cell, slot: Slot) -> TrialSpec:
        expected = self.memory.expected(cell.config) if self.memory else None
        return TrialSpec(
            study=self.study.name,
            number=number,
            key=self._key(proposal),
            config=without_passwords(cell.config.to_dict()),
            identity=self.identities.identity(cell),
            overrides=dict(sorted(cell.overrides.items())),  # as they are read back
            generation=self.study.generation,
            devices=slot.device,
            threads=cell.config.trial.threads,
            cpus=list(slot.cpus) if slot.cpus else None,
            cache_dir=str(self.cache_dir.absolute()),
            stage=proposal.stage,
            repeat=proposal.repeat,
            heard=self.asking.heard(),
            predicted_memory_bytes=expected.predicted_bytes if expected else None,
            corrected_memory_bytes=expected.corrected_bytes if expected else None,
        )

    def _watch(self, running: Running) -> None:
        """Follow a trial, end it when it should, and record it when it has."""
        is_done = running.job.done()  # first: what it wrote before it ended is read below
        heard = [self._pruning.hear(running.spec.number, line) for line in running.lines()]
        if is_done:
            self._end(running)
            return
        if running.is_prunable and (reason := next(filter(None, heard), None)) is not None:
            running.stop(Outcome.PRUNED, reason)
        running.enforce_time()

    def _end(self, running: Running) -> None:
        """Record a trial that has ended or was killed."""
        del self._running[running.spec.key]
        record = TrialRecord(running.spec, running.result(), running.folder)
        self._settle(record, running.state, running.proposals, time.monotonic() - running.began_s)

    def _settle(
        self, record: TrialRecord, state: CellState, proposals: Sequence[Proposal], seconds: float | None
    ) -> None:
        """Tell everybody how a trial ended; a cancelled one only Optuna."""
        assert record.result is not None
        record = self._lean(record)
        self.budget.hear(record)
        if record.result is not None and record.result.outcome.is_final:
            self._learn(record)
            self._reference.hear(record)
            self._settled[record.spec.key] = state.record = record
            for proposal in proposals:
                self.asking.tell(proposal, record)
        self._pruning.end(record, self._reference.keeps_always(record))
        self.optuna.tell(record.number, record, self._reference.loss)
        self.board.settle(state, seconds)
        self.say(ended(record))
        self.say(self.tracker.log_trial(record))

    def _learn(self, record: TrialRecord) -> None:
        """What a settled trial says about others."""
        self._dominance.hear(record)
        if self.memory:
            self.memory.hear(record)

    def _what_is_left(self, spent: str, refused: Proposal) -> str:
        total = self.board.total
        if total is None:
            left = (
                f"the next of the cells that are left is {begun(refused.cell, refused.cell, refused.stage)}"
            )
        else:
            left = f"{max(0, total - self.board.done - len(self._running))} cells are left"
        return f"{spent} is used up: {left}; the same command with more of it goes on"

    def say(self, line: str | None) -> None:
        """Let whoever listens know, if there is something to say."""
        if line is not None:
            self.listener(self.board, line)
