"""The command line as a user runs it: a process of its own in an empty folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from sweeper.study.folder import StudyFolder
from sweeper.study.records import TrialRecord
from tests.support import forked

SHORT = (
    "train.steps=3", "trial.warmup_steps=1", "data.max_train_examples=64", "data.max_eval_examples=8",
    "evaluate.general=4",
)  # fmt: skip
"""Overrides that make a trial of the embedded model a matter of a second."""
GRID = ("-m", "lora.r=8,16", "optim=adamw,adafactor,bnb8", *SHORT)
"""The main job, on trials of a second."""


def sweeper(folder: Path, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Run `python -m sweeper` to its end, in a process that need not import the libraries again."""
    return forked.run(arguments, folder, environment(), timeout_s)


def new_sweeper(folder: Path, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Run `python -m sweeper` to its end, in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sweeper", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(),
        check=False,
    )


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `python -m sweeper` and leave it running.

    A shell's background job ignores SIGINT, and so would a driver that a test run in one starts.
    """
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "sweeper", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def environment() -> dict[str, str]:
    """One thread per trial: tests run beside each other, and two pools on the same cores stall."""
    return {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def study(folder: Path) -> StudyFolder:
    """The one study below `folder`."""
    (path,) = [path for path in (folder / "studies").iterdir() if not path.name.startswith(".")]
    return StudyFolder(path)


def trials(folder: Path) -> list[TrialRecord]:
    return study(folder).read_trials()


def wait_for(condition: object, timeout_s: float = 90) -> None:
    """Wait until `condition()` is true."""
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def processes_about(folder: Path) -> list[psutil.Process]:
    """Processes that have `folder` as their working directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_trial(process: psutil.Process) -> bool:
    """A trial is a child of the warm server and leads a session of its own."""
    parent = process.parent()
    return parent is not None and "trainers.warm" in " ".join(parent.cmdline()) and not process.children()


def send(process: subprocess.Popen[str], number: signal.Signals) -> None:
    os.kill(process.pid, number)
