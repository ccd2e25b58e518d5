"""How a process ended that left no result: in words, and as an outcome where its log tells."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from sweeper.contract.trial import Outcome

BITSANDBYTES_OUT_OF_MEMORY = re.compile(r"^Error out of memory at line \d+", re.MULTILINE)
"""What CUDA_CHECK_RETURN of bitsandbytes (csrc/common.cuh) prints before it ends the process."""
BITSANDBYTES_EXIT_CODE = 1
"""The exit status that it gives."""
LOG_BYTES = 8192
"""How much of the end of a log is looked at."""


def explain_ending(exit_code: int, log: Path) -> tuple[Outcome, str]:
    """The outcome of a trial's process that ended without a result and that nobody stopped, with the reason.

    `exit_code`: negative for the signal that killed it; `log`: its standard error.
    """
    if exit_code == BITSANDBYTES_EXIT_CODE and BITSANDBYTES_OUT_OF_MEMORY.search(_end_of(log)):
        return Outcome.OUT_OF_MEMORY, (
            "an allocation of bitsandbytes failed on the device, which ended the process: lower batch.micro, "
            f"set checkpointing=on, or quantise the base; see {log}"
        )
    ended = f"the trial's process ended without a result ({_how(exit_code)}): see {log}"
    if exit_code == -signal.SIGKILL:
        return Outcome.CRASHED, (
            f"{ended}. Nobody here sent that signal: probably the host ran out of memory and its kernel "
            "chose this process (`dmesg` tells); lower batch.micro or slots, or set trial.memory_limit_gib"
        )
    return Outcome.CRASHED, ended


def _how(exit_code: int) -> str:
    return f"killed by signal {-exit_code}" if exit_code < 0 else f"exit status {exit_code}"


def _end_of(log: Path) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - LOG_BYTES))
        return file.read().decode(errors="replace")
