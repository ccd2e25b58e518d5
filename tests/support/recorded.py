"""Studies played through in no time: real folders, real Optuna, real MLflow, answers instead of trials."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.config.hydra import initialized_hydra
from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import Measurements
from sweeper.contract.stamps import digest
from sweeper.contract.trial import Outcome, TrialProgress, TrialResult, TrialSpec
from sweeper.launchers.base import Launcher
from sweeper.launchers.recorded import RecordedJob, RecordedLauncher, Recording
from sweeper.machine import machine
from sweeper.scheduler.board import Board
from sweeper.space.expand import expand
from sweeper.space.space import Space
from sweeper.strategies.asking import Asking
from sweeper.strategies.base import Proposal, Question
from sweeper.study.folder import StudyFolder
from sweeper.study.records import TrialRecord
from sweeper.sweep import Verdict, sweep
from tests.support.stores import empty_ledger, with_store

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
    with_store(folder)
    stores = {"study.storage": empty_ledger(folder), "tracking.uri": folder.absolute() / "mlflow.db"}
    named = {item.partition("=")[0] for item in arguments}
    own = (f"{key}=sqlite:///{path}" for key, path in stores.items() if key not in named)
    arguments = (*own, *arguments)
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


def record_of(
    number: int,
    config: Config,
    overrides: dict[str, str] | None = None,
    outcome: Outcome | None = None,
    **measured: Any,
) -> TrialRecord:
    """A trial as it is heard of: what it was asked and what it measured."""
    result = TrialResult(outcome or Outcome.COMPLETED, None, Measurements(**measured))
    spec = TrialSpec("study", number, f"key {number}", config.to_dict(), overrides or {})
    return TrialRecord(spec, result, TrialFolder(Path(f"{number:04d}")))


def lines_of(
    speed: float, losses: dict[int, float], steps: int = 8, tokens: int = 100
) -> list[TrialProgress]:
    """What a trial writes whose steps take `tokens` each, with an evaluation after each step in `losses`."""
    lines = [TrialProgress("eval", 0.0, 0, loss=losses[0])] if 0 in losses else []
    for step in range(1, steps + 1):
        seconds = tokens / speed
        lines.append(TrialProgress("step", step * seconds, step, steps, tokens=tokens, step_time_s=seconds))
        if step in losses:
            lines.append(TrialProgress("eval", step * seconds, step, loss=losses[step]))
    return lines


Answer = Callable[[TrialSpec], Recording]


def proposed(
    *arguments: str,
    answers: Answer = answer,
    slots: int = 1,
    budget: int | None = None,
    seen: list[Proposal] | None = None,
) -> Question:
    """What a strategy asks for, without a study around it. `seen` receives the proposals."""
    with initialized_hydra():
        return driven(expand(arguments, "config", machine()), answers, slots, budget, seen)


def driven(
    space: Space,
    answers: Answer = answer,
    slots: int = 1,
    budget: int | None = None,
    seen: list[Proposal] | None = None,
    earlier: Sequence[TrialRecord] = (),
) -> Question:
    """Answer each proposal in its turn, `slots` at a time, until the strategy or the budget of trials ends.
    `earlier`: what a driver that was cut off has left."""
    question = Question(space, lambda _: None, slots=slots)
    asking, waiting, begun = Asking(question), deque[tuple[Proposal, TrialSpec]](), len(earlier)
    known = {record.spec.key: record for record in earlier}
    asking.replay(earlier, known, _key_of, lambda *_: None)
    while budget is None or len(known) < budget:
        while len(waiting) < slots and (proposal := _next_of(asking)) is not None:
            if seen is not None:
                seen.append(proposal)
            if (record := known.get(_key_of(proposal))) is not None:
                asking.tell(proposal, record)
                continue
            waiting.append((proposal, _spec_of(begun, proposal, asking.heard())))
            begun += 1
        if not waiting:
            break
        proposal, spec = waiting.popleft()
        record = TrialRecord(spec, answers(spec).result, TrialFolder(Path(str(spec.number))))
        known[spec.key] = record
        asking.tell(proposal, record)
    asking.close()
    return question


def _next_of(asking: Asking) -> Proposal | None:
    return asking.unmeasured.pop(0) if asking.unmeasured else asking.propose()


def _key_of(proposal: Proposal) -> str:
    return digest([proposal.cell.config.to_dict(), proposal.repeat])


def _spec_of(number: int, proposal: Proposal, heard: list[int]) -> TrialSpec:
    cell = proposal.cell
    return TrialSpec(
        "study",
        number,
        _key_of(proposal),
        cell.config.to_dict(),
        cell.overrides,
        stage=proposal.stage,
        repeat=proposal.repeat,
        heard=heard,
    )
