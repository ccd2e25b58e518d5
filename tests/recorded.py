"""Studies played through in no time: real folders, real Optuna, real MLflow, answers instead of trials."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.board import Board
from sweeper.config import initialized_hydra
from sweeper.contract import Measurements, Outcome, TrialResult, TrialSpec
from sweeper.launchers.base import Launcher
from sweeper.launchers.recorded import RecordedJob, RecordedLauncher, Recording
from sweeper.records import StudyFolder, TrialRecord
from sweeper.sweep import Verdict, sweep

MIB = 2**20
ROOM = 600 * MIB


def answer(spec: TrialSpec) -> Recording:
    """A small model of a machine: what a trial of this configuration measures, always the same."""
    config = spec.config
    micro, probe = config["batch"]["micro"], config["trial"]["probe_steps"]
    saved = 0.4 if config["checkpointing"] else 1.0
    state = (200 if config["adapter"] == "full" else 20) * (0.5 if "8bit" in config["optim"] else 1.0)
    peak = round((100 + 40 * micro * saved + state) * MIB)
    if peak > ROOM:
        lost = Measurements(load_time_s=0.1, steps=0, total_time_s=0.5)
        return Recording(TrialResult(Outcome.OUT_OF_MEMORY, "no room", lost), 0.5)
    speed = 1000 * math.log2(2 * micro) * (1.5 if config["precision"] != "fp32" else 1.0)
    speed *= (0.8 if config["checkpointing"] else 1.0) * (1.1 if config["adapter"] == "lora" else 1.0)
    loss = 3 + 0.1 * abs(math.log10(config["train"]["learning_rate"] / 3e-3))
    loss += config["batch"]["effective"] / 1e3
    steps = probe or 30
    measured = Measurements(
        tokens_per_s=speed,
        peak_memory_bytes=peak,
        eval_loss=None if probe else loss,
        tokens=1000,
        steps=steps,
        load_time_s=0.1,
        total_time_s=0.2 + steps * 0.05,
    )
    return Recording(TrialResult(Outcome.COMPLETED, None, measured), 0.2 + steps * 0.05)


@dataclass
class Interrupted(RecordedLauncher):
    """Behaves as if Ctrl-C came when one trial more than `trials` was to start."""

    trials: int = 0

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> RecordedJob:
        if verb == "trial" and self.started >= self.trials:
            raise KeyboardInterrupt
        return super().submit(verb, folder, stdout, stderr)


@dataclass
class Played:
    """A study that was played through."""

    verdict: Verdict
    launcher: RecordedLauncher
    lines: list[str] = field(default_factory=list)

    @property
    def records(self) -> list[TrialRecord]:
        return self.verdict.folder.read_trials()

    def settled(self) -> list[tuple[str, str, int]]:
        """Stage, cell and repeat of the trials that count, in their order."""
        return [
            (record.spec.stage, record.label, record.spec.repeat)
            for record in self.records
            if record.result and record.result.outcome.is_final
        ]


def play(folder: Path, *arguments: str, launcher: RecordedLauncher | None = None) -> Played:
    """Run a study below `folder` to its end, or to its interruption."""
    player = launcher or RecordedLauncher(answer)
    lines: list[str] = []

    @contextmanager
    def launching() -> Iterator[Launcher]:
        yield player

    def listen(_: Board, line: str | None) -> None:
        lines.extend([line] if line else [])

    folder.mkdir(exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        with initialized_hydra():
            verdict = sweep(arguments, "config", "test", lambda: nullcontext(listen), launching)
            folder_there = StudyFolder(verdict.folder.path.absolute())
    finally:
        os.chdir(before)
    verdict = replace_folder(verdict, folder_there)
    return Played(verdict, player, lines)


def replace_folder(verdict: Verdict, folder: StudyFolder) -> Verdict:
    import dataclasses

    return dataclasses.replace(verdict, folder=folder)


def interrupted(folder: Path, trials: int, *arguments: str) -> Any:
    """The same, cut off after so many trials."""
    return play(folder, *arguments, launcher=Interrupted(answer, trials=trials))
