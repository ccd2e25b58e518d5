"""What the scheduler asks of a launcher."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Job(Protocol):
    """A process that was asked for. Named after `concurrent.futures`."""

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that killed it."""

    def done(self) -> bool:
        """Whether it has ended."""

    def kill(self) -> None:
        """End it and all that it started."""


class Launcher(Protocol):
    """Starts a process on a folder: the folder is the whole interface (see `sweeper.contract`)."""

    def start(self) -> None:
        """Begin what takes time before a first job; returns at once. `submit` does it where nobody has."""

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> Job:
        """Ask for a process that does `verb` (`trial` or `prepare`) in `folder`."""

    def wait(self, timeout_s: float) -> None:
        """Sleep until a job changes, at most `timeout_s`."""

    def close(self) -> None:
        """End every job."""
