"""A question to a process of its own: asked through a file of a folder, answered by another file of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.contract.json_files import read_json, write_json
from sweeper.launchers.base import Job, Launcher

REPLIES = {
    "prepare": "prepared.json",
    "memory": "predicted.json",
    "machine": "seen.json",
    "publish": "published.json",
}
"""Verb -> the file that its process answers with; `<verb>.json` is what it is asked."""
POLL_S = 0.2
"""How long to sleep where the launcher tells of no change."""
TRIES = 2
"""How often a question is put whose process was killed: who kills one of them meant to free memory."""


class NoReplyError(RuntimeError):
    """A process ended before it had answered; the message holds the end of its log."""

    def __init__(self, verb: str, ending: str, log: str) -> None:
        """`ending`: how the process ended. `log`: the last lines that it wrote."""
        self.ending = ending
        self.log = log
        says = f":\n{log}" if log else "; the same command asks again"
        super().__init__(f"a process that is asked to `{verb}` must answer, but it {ending}{says}")


def ask(
    launcher: Launcher, verb: str, request: Mapping[str, Any], folder: Path | None = None, tries: int = TRIES
) -> Any:
    """Let a process do `verb` and return its reply; a process that was killed is replaced `tries - 1` times.

    `folder` keeps question, reply and logs; without one they are gone afterwards. Raises NoReplyError.
    """
    if folder is not None:
        return _ask_in(folder, launcher, verb, request, tries)
    with tempfile.TemporaryDirectory(prefix=f"sweeper-{verb}-", ignore_cleanup_errors=True) as name:
        return _ask_in(Path(name), launcher, verb, request, tries)


def _ask_in(folder: Path, launcher: Launcher, verb: str, request: Mapping[str, Any], tries: int) -> Any:
    reply, log = folder / REPLIES[verb], folder / "stderr.log"
    write_json(folder / f"{verb}.json", request)
    reply.unlink(missing_ok=True)
    while True:
        tries -= 1
        job = launcher.submit(verb, folder, folder / "stdout.log", log)
        _wait_for(job, launcher)
        if reply.exists():
            return read_json(reply)
        was_killed = job.exit_code is not None and job.exit_code < 0
        if tries == 0 or not was_killed:
            raise NoReplyError(verb, describe_ending(job.exit_code), tail(log))


def _wait_for(job: Job, launcher: Launcher) -> None:
    try:
        while not job.done():
            launcher.wait(POLL_S)
    finally:
        job.kill()


def describe_ending(exit_code: int | None) -> str:
    """How a process ended, in words; `exit_code` is negative for the signal that killed it."""
    if exit_code is None:
        return "was still running"
    return f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit status {exit_code}"


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log; empty when there is none."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
