"""Wall time per trial outside its own load, training and evaluation: warm processes against fresh ones.

    python -m benchmarks.overhead

Runs a study of six short trials, then each of the same trials once more with `python -m trainers`, a fresh
interpreter. The overhead of a warm trial is the time from the end of the trial before it to its own end, less
what it loaded, trained and evaluated; of a fresh one the time of its process, less the same.
"""

from __future__ import annotations

import shutil
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


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as name:
        records = run_study(Path(name), "lora.r=8,16", "optim=adamw,adafactor,bnb8", "train.steps=5")
        warm_s = [_ended_s(after) - _ended_s(before) - _work_s(after) for before, after in pairwise(records)]
        fresh_s = [_fresh_s(record) for record in records]
    for kind, times_s in (("warm process", warm_s), ("fresh interpreter", fresh_s)):
        print(f"{kind:<18} median {statistics.median(times_s):.2f} s, most {max(times_s):.2f} s per trial")
    figures = {"overhead_warm_s": warm_s, "overhead_fresh_s": fresh_s}
    write_result("overhead", COMMAND, figures)


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
