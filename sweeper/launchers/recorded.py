"""Trials that are answered instead of run: from a table of measurements, or by a function.

Everything else is real: the folders, the records, the order of events. A clock of its own orders what
several trials at a time would have done, so that a search can be played through in no time, and twice
in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweeper.contract.folder import TrialFolder
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.trial import Outcome, TrialProgress, TrialResult, TrialSpec


@dataclass(frozen=True)
class Recording:
    """What a trial would have done."""

    result: TrialResult
    seconds: float = 1.0
    """How long it would have taken."""
    progress: tuple[TrialProgress, ...] = ()
    """Its lines, in the order of their times."""


Answer = Callable[[TrialSpec], Recording]


@dataclass
class RecordedJob:
    """A trial that plays its recording, one event at a time."""

    folder: TrialFolder
    recording: Recording
    began_s: float
    exit_code: int | None = None
    _played: int = 0

    def done(self) -> bool:
        return self.exit_code is not None

    def kill(self) -> None:
        self.exit_code = -9 if self.exit_code is None else self.exit_code

    @property
    def next_s(self) -> float:
        """When its next event is due on the launcher's clock."""
        lines = self.recording.progress
        waits = lines[self._played].time_s if self._played < len(lines) else self.recording.seconds
        return self.began_s + waits

    def play(self) -> None:
        """Carry out its next event."""
        if self.folder.stop.exists():
            self._stop()
        elif self._played < len(self.recording.progress):
            line = self.recording.progress[self._played]
            self._played += 1
            with self.folder.progress.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line.to_json()) + "\n")
        else:
            self._end(self.recording.result)

    def _stop(self) -> None:
        asked = read_json(self.folder.stop)
        self._end(replace(self.recording.result, outcome=Outcome(asked["outcome"]), reason=asked["reason"]))

    def _end(self, result: TrialResult) -> None:
        self.folder.write_result(result)
        self.exit_code = 0


@dataclass
class RecordedLauncher:
    """Answers every trial from `answer`, and every preparation with "nothing is wrong"; predicts nothing."""

    answer: Answer
    now_s: float = 0.0
    """The launcher's own clock: the trials' time, not ours."""
    started: int = 0
    """Trials that were asked for."""
    _running: list[RecordedJob] = field(default_factory=list)

    def start(self) -> None: ...

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> RecordedJob:
        trial = TrialFolder(folder)
        if verb == "prepare":
            return self._prepare(trial)
        if verb == "memory":  # nothing is known of recordings beforehand
            return RecordedJob(trial, Recording(TrialResult(Outcome.CRASHED)), self.now_s, exit_code=1)
        self.started += 1
        job = RecordedJob(trial, self.answer(trial.read_spec()), self.now_s)
        self._running.append(job)
        return job

    def wait(self, timeout_s: float) -> None:
        """Let the next event of any trial happen."""
        self._running = [job for job in self._running if not job.done()]
        if self._running:
            job = min(self._running, key=lambda item: item.next_s)
            self.now_s = max(self.now_s, job.next_s)
            job.play()

    def close(self) -> None:
        for job in self._running:
            job.kill()

    def _prepare(self, folder: TrialFolder) -> RecordedJob:
        asked = read_json(folder.path / "prepare.json")["configs"]
        write_json(folder.path / "prepared.json", {"cells": [dict(_SOUND) for _ in asked]})
        return RecordedJob(folder, Recording(TrialResult(Outcome.COMPLETED)), self.now_s, exit_code=0)


_SOUND: dict[str, Any] = {"problems": [], "model_fingerprint": "recorded", "data_fingerprint": "recorded"}
