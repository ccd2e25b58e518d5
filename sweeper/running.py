"""One trial while it runs: its lines as they come, its time, and its end."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from sweeper.board import CellState
from sweeper.contract import (
    Outcome,
    TrialFolder,
    TrialProgress,
    TrialResult,
    TrialSpec,
    read_json,
    write_json,
)
from sweeper.identity import tail
from sweeper.launchers.base import Job
from sweeper.provenance import now
from sweeper.slots import Slot
from sweeper.strategies.base import Proposal

STOP_GRACE_S = 10.0
"""How long a trial that was asked to stop may take before it is killed."""


@dataclass
class Running:
    """A trial that was started."""

    spec: TrialSpec
    folder: TrialFolder
    job: Job
    slot: Slot
    state: CellState
    proposals: list[Proposal]
    """Those that it answers: usually one."""
    timeout_s: float | None
    began_s: float = field(default_factory=time.monotonic)
    _offset: int = 0
    _stopped_s: float | None = None

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
            if line:
                self.state.progress = TrialProgress.from_json(json.loads(line))
                yield self.state.progress

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
        if self._stopped_s is not None and time.monotonic() - self._stopped_s > STOP_GRACE_S:
            self.job.kill()

    def result(self) -> TrialResult:
        """How it ended; written to its folder when it could not do so itself."""
        result = self.folder.read_result()
        if result is None:
            result = self._post_mortem()
            self.folder.write_result(result)
        return result

    def _post_mortem(self) -> TrialResult:
        result = TrialResult(Outcome.CANCELLED, "the driver was interrupted", ended_at=now())
        if self.folder.stop.exists():
            stop = read_json(self.folder.stop)
            return dataclasses.replace(result, outcome=Outcome(stop["outcome"]), reason=stop["reason"])
        if not self.job.done():
            return result
        code = self.job.exit_code or 0
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        reason = f"the trial's process ended without a result ({how}): see {self.folder.stderr}"
        return dataclasses.replace(
            result, outcome=Outcome.CRASHED, reason=reason, traceback=tail(self.folder.stderr) or None
        )
