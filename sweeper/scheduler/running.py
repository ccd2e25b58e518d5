"""One trial while it runs: its lines as they come, its time, and its end."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sweeper.contract.folder import TrialFolder
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.measurements import Measurements
from sweeper.contract.speed import measure_speed
from sweeper.contract.stamps import now
from sweeper.contract.trial import MISSHAPEN, Outcome, TrialProgress, TrialResult
from sweeper.launchers.ask import tail
from sweeper.launchers.base import Job
from sweeper.preflight.slots import Slot
from sweeper.strategies.base import Proposal
from sweeper.study.endings import explain_ending
from sweeper.study.records import TrialRecord

STOP_GRACE_S = 10.0
"""How long a trial that was asked to stop may take at least before it is killed."""
GRACE_PAUSES = 4
"""The same in multiples of its own longest pause between two lines: a trial that was asked to stop ends its
step, then takes its losses on the evaluation split and on the general corpus; one to spare."""
TOLD = "read from progress.jsonl: the trial was ended before it could write its own figures"


@dataclass
class Running:
    """A trial that was started."""

    trial: TrialRecord
    job: Job
    slot: Slot
    proposals: list[Proposal]
    """Those that it answers: usually one."""
    timeout_s: float | None
    began_s: float = field(default_factory=time.monotonic)
    started_at: str = field(default_factory=now)
    is_trained: bool = False
    """It has taken its last step: what is left is to judge it."""
    _last: TrialProgress | None = None
    _offset: int = 0
    _stopped_s: float | None = None
    _killed: bool = False
    _longest_pause_s: float = 0.0

    @property
    def folder(self) -> TrialFolder:
        return self.trial.folder

    def lines(self) -> Iterator[TrialProgress]:
        """The lines that it wrote since this was last asked."""
        path = self.folder.progress
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            with suppress(*MISSHAPEN):  # one bad line says nothing, and ends nothing
                yield self._heard(TrialProgress.from_json(json.loads(line)))

    def _heard(self, line: TrialProgress) -> TrialProgress:
        last, self._last = self._last, line
        if last is not None and last.phase != "load":
            self._longest_pause_s = max(self._longest_pause_s, line.time_s - last.time_s)
        if line.event == "step":
            self.is_trained = line.step == line.total_steps
        return line

    @property
    def is_prunable(self) -> bool:
        """Whether it may be ended early: nobody is held against it, and it has steps left."""
        return not self.is_trained and all(proposal.prunable for proposal in self.proposals)

    @property
    def grace_s(self) -> float:
        """How long it may take to end after it was asked to."""
        return max(STOP_GRACE_S, GRACE_PAUSES * self._longest_pause_s)

    def stop(self, outcome: Outcome, reason: str) -> None:
        """Ask it to end, once."""
        if self._stopped_s is None:
            self._stopped_s = time.monotonic()
            write_json(self.folder.stop, {"outcome": outcome.value, "reason": reason})

    def enforce_time(self) -> None:
        """End it when it runs past its time, and kill it when it does not end."""
        elapsed_s = time.monotonic() - self.began_s
        if self.timeout_s is not None and elapsed_s > self.timeout_s:
            reason = f"the trial must end within trial.timeout_s={self.timeout_s:g}, but was still running"
            self.stop(Outcome.TIMED_OUT, reason)
        if self._stopped_s is not None and time.monotonic() - self._stopped_s > self.grace_s:
            self.job.kill()

    def cancel(self) -> None:
        """End it because the driver ends: it is no fault of the trial's."""
        self._killed = not self.job.done()
        self.job.kill()

    def result(self) -> TrialResult:
        """How it ended; written to its folder when it could not do so itself."""
        result = self.folder.read_result()
        if result is None:
            result = self._post_mortem()
            self.folder.write_result(result)
        return result

    def _post_mortem(self) -> TrialResult:
        result = told(
            TrialResult(Outcome.CANCELLED, "the driver was interrupted", ended_at=now()),
            self.folder.read_progress(),
            int(self.trial.spec.config["trial"]["warmup_steps"]),
        )
        result = dataclasses.replace(result, started_at=self.started_at)
        if self.folder.stop.exists():
            stop = read_json(self.folder.stop)
            return dataclasses.replace(result, outcome=Outcome(stop["outcome"]), reason=stop["reason"])
        if self._killed or not self.job.done():
            return result
        outcome, reason = explain_ending(self.job.exit_code or 0, self.folder.stderr)
        trace = tail(self.folder.stderr) or None
        return dataclasses.replace(result, outcome=outcome, reason=reason, traceback=trace)


def told(result: TrialResult, progress: Sequence[TrialProgress], warmup_steps: int) -> TrialResult:
    """The result of a trial that could not write its own, with what its lines of progress tell.

    The figures are defined as the trial's own. `eval_loss` stays unknown: it is that of the whole training.
    """
    if not progress:
        return result
    steps = [line for line in progress if line.event == "step"]
    timed = [(line.tokens, line.step_time_s) for line in steps if line.step > warmup_steps]
    known = [(tokens, seconds) for tokens, seconds in timed if tokens and seconds]
    speed = measure_speed([tokens for tokens, _ in known], [seconds for _, seconds in known])
    before = next((line.loss for line in progress if line.event == "eval" and line.step == 0), None)
    measured = Measurements(
        **dataclasses.asdict(speed),
        steps=len(steps),
        tokens=sum(line.tokens or 0 for line in steps),
        eval_loss_before=before,
        total_time_s=progress[-1].time_s,
    )
    return dataclasses.replace(result, measurements=measured, definitions={"measurements": TOLD})
