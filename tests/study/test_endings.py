"""A process that ended without a result is told by its log and its exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.contract.trial import Outcome
from sweeper.study.endings import explain_ending

# csrc/common.cuh of bitsandbytes: fprintf(stderr, "Error %s at line %d in file %s\n", …); exit(1);
BITSANDBYTES = "Error out of memory at line 380 in file /src/csrc/ops.cu"


def ended(log: Path, program: str) -> int:
    with log.open("w") as stderr:
        return subprocess.run([sys.executable, "-c", program], stderr=stderr, check=False).returncode


@pytest.mark.parametrize(
    ("program", "outcome", "words"),
    [
        (f"import sys; sys.exit({BITSANDBYTES!r})", Outcome.OUT_OF_MEMORY, "lower batch.micro"),
        (f"import sys; sys.stderr.write({BITSANDBYTES!r}); sys.exit(2)", Outcome.CRASHED, "exit status 2"),
        ("raise SystemExit('it said: Error out of memory at line 3')", Outcome.CRASHED, "exit status 1"),
        ("import os; os.kill(os.getpid(), 9)", Outcome.CRASHED, "probably the host ran out of memory"),
        ("import os; os.kill(os.getpid(), 11)", Outcome.CRASHED, "killed by signal 11"),
    ],
)
def test_an_ending_is_told_by_log_and_exit_code(
    program: str, outcome: Outcome, words: str, tmp_path: Path
) -> None:
    log = tmp_path / "stderr.log"
    code = ended(log, program)
    found, reason = explain_ending(code, log)
    assert found is outcome and words in reason and str(log) in reason


def test_a_missing_log_is_no_evidence(tmp_path: Path) -> None:
    assert explain_ending(1, tmp_path / "stderr.log")[0] is Outcome.CRASHED
