"""What the driver itself costs per trial in a large study, and how much memory it holds.

    python -m benchmarks.scale [CELLS]

Runs a grid of 10,000 cells (or CELLS) to its end through the real scheduler, trial folders, Optuna and MLflow
(both SQLite). Only the trials are answered at once instead of trained. The cost of a trial is the time from
the submission of one trial to that of the next. The last hundred must cost at most 1.5 times the first.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.runs import write_result
from sweeper.config.hydra import initialized_hydra
from sweeper.contract.measurements import Measurements
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from sweeper.launchers.base import Launcher
from sweeper.launchers.recorded import RecordedJob, RecordedLauncher, Recording
from sweeper.scheduler.board import Board
from sweeper.sweep import sweep

HUNDRED = 100
SAMPLE = 500
"""Trials between two looks at the driver's memory."""


def answer(spec: TrialSpec) -> Recording:
    """Figures of the usual size, different in every trial."""
    measured = Measurements(
        tokens_per_s=1000.0 + spec.number % 97,
        peak_memory_bytes=(100 + spec.number % 31) * 2**20,
        eval_loss=3.0 + spec.number % 13 / 100,
        tokens=1000,
        steps=20,
        load_time_s=0.1,
        total_time_s=1.0,
    )
    return Recording(TrialResult(Outcome.COMPLETED, None, measured))


@dataclass
class Timed(RecordedLauncher):
    """Notes when each trial was submitted, and the driver's memory now and then."""

    submitted_s: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> RecordedJob:
        if verb == "trial":
            if len(self.submitted_s) % SAMPLE == 0:
                self.resident_bytes.append(resident_bytes())
            self.submitted_s.append(time.perf_counter())
        return super().submit(verb, folder, stdout, stderr)


def resident_bytes() -> int:
    """Resident memory of this process (/proc/self/statm, proc(5))."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run(cells: int, folder: Path) -> Timed:
    """The whole study."""
    launcher = Timed(answer)

    @contextmanager
    def launching() -> Iterator[Launcher]:
        yield launcher

    def listen(board: Board, line: str | None) -> None:
        if line and board.done % SAMPLE == 0:
            print(line, flush=True)

    os.chdir(folder)
    overrides = [f"lora.r=range(1,{cells // HUNDRED + 1})", f"train.seed=range(0,{HUNDRED})"]
    with initialized_hydra():
        sweep(overrides, "config", "benchmark", lambda: nullcontext(listen), launching)
    return launcher


def main() -> None:
    """Measure, print, write."""
    cells = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="sweeper-scale-") as name:
        began_s = time.perf_counter()
        launcher = run(cells, Path(name))
        total_s = time.perf_counter() - began_s
        os.chdir(here)
    at = launcher.submitted_s
    costs = [after - before for before, after in pairwise(at)]
    first, last = statistics.fmean(costs[:HUNDRED]), statistics.fmean(costs[-HUNDRED:])
    growth = (launcher.resident_bytes[-1] - launcher.resident_bytes[0]) / 2**20
    print(f"{len(at)} trials in {total_s:,.0f} s, {at[0] - began_s:.1f} s of them before the first")
    in_ms = f"first hundred {first * 1e3:.1f} ms, last hundred {last * 1e3:.1f} ms"
    print(f"per trial: {in_ms}, {last / first:.2f} times")
    print(f"driver's memory grew by {growth:.0f} MiB from the first trial to the last")
    figures: dict[str, Any] = {
        "cells": len(at),
        "total_s": total_s,
        "before_first_trial_s": at[0] - began_s,
        "first_hundred_mean_s": first,
        "last_hundred_mean_s": last,
        "last_over_first": last / first,
        "mean_s_per_500": [statistics.fmean(costs[i : i + SAMPLE]) for i in range(0, len(costs), SAMPLE)],
        "resident_bytes_every_500": launcher.resident_bytes,
    }
    write_result("scale", "python -m benchmarks.scale", figures)


if __name__ == "__main__":
    main()
