"""What the benchmarks share: run a study in a folder of its own, and write a result with its origin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from sweeper import __version__
from sweeper.contract.json_files import write_json
from sweeper.contract.stamps import now
from sweeper.contract.trial import Outcome
from sweeper.machine import machine, versions
from sweeper.study.folder import StudyFolder
from sweeper.study.records import TrialRecord

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def run_study(folder: Path, *arguments: str) -> list[TrialRecord]:
    """The completed trials of `python -m sweeper`, run below `folder`. Raises CalledProcessError."""
    command = [sys.executable, "-m", "sweeper", "-m", "study.name=benchmark", *arguments]
    subprocess.run(command, cwd=folder, env=environment(), check=True)
    records = StudyFolder(folder / "studies" / "benchmark").read_trials()
    return [record for record in records if record.result and record.result.outcome is Outcome.COMPLETED]


def environment() -> dict[str, str]:
    """This process's environment, with the checkout in reach from any folder."""
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def metric(record: TrialRecord, name: str) -> float:
    """A measurement that the benchmark cannot do without. Raises ValueError when it is unknown."""
    value = record.metric(name)
    if value is None:
        raise ValueError(f"trial {record.number} must have measured {name}, but did not")
    return value


def write_result(name: str, command: str, figures: dict[str, Any]) -> None:
    """Write `results/NAME.json`: the figures, the command that repeats them, machine and versions."""
    here = machine()
    record = {
        "command": command,
        "measured_at": now(),
        "sweeper": __version__,
        "device": here.device,
        "cpu": here.cpu,
        "versions": versions(),
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", record)
