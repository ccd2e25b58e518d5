"""What a sweep costs besides its trials: its start, its repetition, and what lies between two trials.

    python -m benchmarks.overhead

Runs a study of six short trials, then each of the same trials once more with `python -m trainers`, a fresh
interpreter. The overhead of a warm trial is the time from the end of the trial before it to its own end, less
what it loaded, trained and evaluated; of a fresh one the time of its process, less the same.

The start is the time from the command in an empty folder until the first trial is specified; the repetition
is the time of the same command when nothing is left to do. Each is measured several times and the
best is printed: the machine may be shared.
"""

from __future__ import annotations

import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from benchmarks.runs import environment, metric, run_study, write_result
from sweeper.contract.folder import TrialFolder
from sweeper.study.records import TrialRecord

COMMAND = "python -m benchmarks.overhead"
GRID = ("lora.r=8,16", "optim=adamw,adafactor,bnb8", "train.steps=5")
STARTS = 5


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as name:
        records = run_study(Path(name), *GRID)
        again_s = [_repetition_s(Path(name)) for _ in range(STARTS)]
        warm_s = [_ended_s(after) - _ended_s(before) - _work_s(after) for before, after in pairwise(records)]
        fresh_s = [_fresh_s(record) for record in records]
    start_s = [_start_s() for _ in range(STARTS)]
    print(f"until the first trial begins {min(start_s):.1f} s, with nothing to do {min(again_s):.1f} s")
    for kind, times_s in (("warm process", warm_s), ("fresh interpreter", fresh_s)):
        print(f"{kind:<18} median {statistics.median(times_s):.2f} s, most {max(times_s):.2f} s per trial")
    figures = {"overhead_warm_s": warm_s, "overhead_fresh_s": fresh_s, "start_s": start_s, "again_s": again_s}
    write_result("overhead", COMMAND, figures)


def _repetition_s(folder: Path) -> float:
    """The time of the same command once more."""
    began_s = time.monotonic()
    run_study(folder, *GRID)
    return time.monotonic() - began_s


def _start_s() -> float:
    """The time from the command until its first trial is specified, in an empty folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        command = [sys.executable, "-m", "sweeper", "-m", "study.name=benchmark", *GRID]
        spec = Path(name) / "studies" / "benchmark" / "trials" / "0000" / "spec.json"
        began_s = time.monotonic()
        with subprocess.Popen(command, cwd=name, env=environment(), stdout=subprocess.DEVNULL) as process:
            while not spec.exists() and process.poll() is None:
                time.sleep(0.01)
            elapsed_s = time.monotonic() - began_s
            process.send_signal(signal.SIGINT)
    return elapsed_s


def _ended_s(record: TrialRecord) -> float:
    assert record.result is not None and record.result.ended_at is not None
    return datetime.fromisoformat(record.result.ended_at).timestamp()


def _work_s(record: TrialRecord) -> float:
    return sum(metric(record, name) for name in ("load_time_s", "train_time_s", "eval_time_s"))


def _fresh_s(record: TrialRecord) -> float:
    """The overhead of the same trial in an interpreter of its own."""
    again = TrialFolder(record.folder.path.with_name(f"fresh-{record.number}"))
    again.path.mkdir()
    shutil.copy(record.folder.spec, again.spec)
    began_s = time.monotonic()
    command = [sys.executable, "-m", "trainers", str(again.path)]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    elapsed_s = time.monotonic() - began_s
    repeated = TrialRecord(record.spec, again.read_result(), again)
    return elapsed_s - _work_s(repeated)


if __name__ == "__main__":
    main()
