"""The loop: ask -> launch -> watch -> record -> tell; a slot takes the next cell as soon as it is free.

The trial folders are the truth. Optuna and MLflow are told from them, by this process alone, so that a
driver that is killed at any moment is continued by the next one. What comes next is the strategy's to
say (`asking`, `strategies`); here it is only carried out.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from sweeper.asking import Asking
from sweeper.board import Board, CellState, Listener, ended
from sweeper.budget import Budget
from sweeper.contract import Outcome, TrialResult, TrialSpec
from sweeper.dominance import Dominance
from sweeper.identity import Identities
from sweeper.launchers.base import Launcher
from sweeper.memory_screen import MemoryScreen
from sweeper.provenance import now
from sweeper.pruning import Pruning
from sweeper.ranking import Rule, is_baseline, violations
from sweeper.records import StudyFolder, StudyRecord, TrialRecord
from sweeper.running import Running
from sweeper.schema import Config
from sweeper.slots import Slot, require_idle
from sweeper.space import Cell, Space
from sweeper.strategies.base import Proposal
from sweeper.study import OptunaStudy
from sweeper.tracking import Tracker

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
        self.screens.insert(0, self._dominance.verdict)
        self._pruning = Pruning(self._config)
        self._settled: dict[str, TrialRecord] = {}
        self._running: dict[str, Running] = {}
        self._shown: set[str] = set()
        self._keys: WeakKeyDictionary[Proposal, str] = WeakKeyDictionary()
        self._reference: float | None = None
        self._shared: TrialResult | None = None
        self._sections: dict[str, object] = {}
        self._hardware = dataclasses.asdict(self._config.hardware)

    def settle(self) -> None:
        """Bring Optuna and the strategy up to what lies in the folders."""
        records = {record.number: record for record in self.folder.read_trials(self._needs_progress)}
        for number, record in records.items():
            if record.result is None:
                cut_off = TrialResult(
                    Outcome.CANCELLED, "the driver died before the trial ended", ended_at=now()
                )
                record.folder.write_result(cut_off)
                records[number] = replace(record, result=cut_off)
        self.optuna.close_stale(records)
        own = [item for item in records.values() if item.spec.generation == self.study.generation]
        self.budget.take_stock(own)
        for record in own:
            if self._is_settled(record):
                self._settled[record.spec.key] = self._lean(record)
        for record in self._settled.values():
            self._learn(record)
            self._pruning.replay(record, self._is_eligible(record))
        self.asking.replay([self._lean(record) for record in own], self._settled, self._key, self.show)

    @property
    def _needs_progress(self) -> bool:
        return self._config.pruner != "none"

    def _is_settled(self, record: TrialRecord) -> bool:
        outcome = record.result.outcome if record.result else Outcome.CANCELLED
        return outcome.is_final and outcome.value not in self._config.study.retry

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
                if not self._running:
                    break
                self.launcher.wait(POLL_S)
                for running in list(self._running.values()):
                    self._watch(running)
                self.listener(self.board, None)
        finally:
            for running in list(self._running.values()):
                running.job.kill()
                self._end(running)

    def _fill(self) -> None:
        """Give every free slot a cell."""
        while len(self._running) < len(self.slots) and self.left is None:
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
            self._keys[proposal] = self.identities.key(self._fitted(proposal), proposal.repeat)
        return self._keys[proposal]

    def _fitted(self, proposal: Proposal) -> Cell:
        """The cell as the slots measure it: all of them have equal shares of the machine."""
        return self.slots[0].fitted(proposal.cell)

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
            self.left = self._what_is_left(spent)
            return
        key = self._key(proposal)
        state = CellState(proposal.cell, key, proposal.stage)
        self._shown.add(key)
        self.board.add(state)
        slot = self._free_slot()
        if screened is None:
            require_idle(slot, cell.config.trial.require_idle_device, self.say, self.launcher.wait)
        number = self.optuna.ask(cell.overrides, self.space.dimensions, key, proposal.stage)
        spec = self._spec(number, proposal, cell, slot)
        trial = self.folder.trial(number)
        trial.write_spec(spec)
        if screened is not None:
            trial.write_result(screened)
            self._settle(TrialRecord(spec, screened, trial), state, [proposal], None)
            return
        state.running = True
        self.say(f"trial {number} started: {cell.label}" + (f" ({proposal.stage})" if proposal.stage else ""))
        self._pruning.begin(number, cell.config)
        job = self.launcher.submit("trial", trial.path, trial.stdout, trial.stderr)
        timeout_s = cell.config.trial.timeout_s
        self._running[key] = Running(spec, trial, job, slot, state, [proposal], timeout_s)

    def _screened(self, config: Config) -> TrialResult | None:
        return next((result for screen in self.screens if (result := screen(config)) is not None), None)

    def _free_slot(self) -> Slot:
        taken = {running.slot.number for running in self._running.values()}
        return next(slot for slot in self.slots if slot.number not in taken)

    def _spec(self, number: int, proposal: Proposal, cell: Cell, slot: Slot) -> TrialSpec:
        expected = self.memory.expected(cell.config) if self.memory else None
        return TrialSpec(
            study=self.study.name,
            number=number,
            key=self._key(proposal),
            config=cell.config.to_dict(),
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
        for line in running.lines():
            reason = self._pruning.hear(running.spec.number, line)
            if reason is not None and not is_done:
                running.stop(Outcome.PRUNED, reason)
        if is_done:
            self._end(running)
        else:
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
            self._settled[record.spec.key] = state.record = record
            for proposal in proposals:
                self.asking.tell(proposal, record)
        self._pruning.end(record, self._is_eligible(record))
        self.optuna.tell(record.number, record, self._reference)
        self.board.settle(state, seconds)
        self.say(ended(record))
        self.say(self.tracker.log_trial(record))

    def _learn(self, record: TrialRecord) -> None:
        """What a settled trial says about others."""
        self._dominance.hear(record)
        if self.memory:
            self.memory.hear(record)
        loss = record.metric("eval_loss")
        if loss is None or record.result is None or record.result.outcome is not Outcome.COMPLETED:
            return
        if self._rule.baseline is None:
            self._reference = loss if self._reference is None else min(self._reference, loss)
        elif is_baseline(record, self._rule):
            self._reference = loss

    def _is_eligible(self, record: TrialRecord) -> bool:
        return not violations(record, self._rule, self._reference)

    def _lean(self, record: TrialRecord) -> TrialRecord:
        """The record without what repeats in every trial: ten thousand of them must fit in memory."""
        result, last = record.result, self._shared
        if result is None:
            return record
        if last is not None:
            same = {
                name: getattr(last, name)
                for name in ("environment", "definitions", "active")
                if getattr(last, name) == getattr(result, name)
            }
            result = replace(result, **same)
        self._shared = result
        config = {**record.spec.config, "hardware": self._hardware}  # today's price
        for name, section in config.items():
            if self._sections.setdefault(name, section) == section:
                config[name] = self._sections[name]
        return replace(record, spec=replace(record.spec, config=config), result=result, progress=[])

    def _what_is_left(self, spent: str) -> str:
        total = self.board.total
        left = (
            ""
            if total is None
            else f": {max(0, total - self.board.done - len(self._running))} cells are left"
        )
        return f"{spent} is used up{left}; the same command with more of it goes on"

    def say(self, line: str | None) -> None:
        """Let whoever listens know, if there is something to say."""
        if line is not None:
            self.listener(self.board, line)
