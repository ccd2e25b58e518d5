"""Trials on this machine, each in a process of its own, forked from a warm server (`trainers.warm`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.launchers.environment import compose_environment

SERVER = [sys.executable, "-m", "trainers.warm"]
DRIVER = "SWEEPER_DRIVER"
"""The variable in which the server finds its driver's process id."""
CLOSING_S = 1.0
"""How long an idle server may take to end once its input has ended."""


@dataclass
class Job:
    """A process that was asked for. Named after `concurrent.futures`."""

    number: int
    pid: int | None = None
    exit_code: int | None = None
    """None while it runs; negative: the signal that killed it."""
    server: subprocess.Popen[bytes] | None = None
    """Whose child it is."""

    def done(self) -> bool:
        return self.exit_code is not None

    def kill(self) -> None:
        """End the process and all that it started."""
        if self.pid is None or self.done():
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


class LocalLauncher:
    """Starts processes through the warm server, and starts the server again should it die."""

    def __init__(self, log: Path) -> None:
        """`log`: file that receives what the server itself writes."""
        self._log = log
        self._server: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        """Whether the server has imported everything."""
        self._jobs: dict[int, Job] = {}
        self._changed = threading.Condition()
        self._count = 0

    def start(self) -> None:
        """Begin to import the training stack, unless a server has begun; returns at once."""
        if self._server is not None and self._server.poll() is None:
            return
        if self._server is not None:
            _end_input(self._server)
        self._is_ready = False
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                SERVER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is the driver's to handle
                env={**trial_environment(), DRIVER: str(os.getpid())},
            )
        threading.Thread(target=self._listen, args=(self._server,), daemon=True).start()

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> Job:
        """Ask for a process that does `verb` (`trial`, `prepare`, `memory` or `publish`) in `folder`."""
        self.start()
        with self._changed:
            self._count += 1
            job = self._jobs[self._count] = Job(self._count, server=self._server)
        request = {"id": job.number, "verb": verb, "folder": str(folder.absolute())}
        request |= {"stdout": str(stdout.absolute()), "stderr": str(stderr.absolute())}
        self._send(request)
        return job

    def wait(self, timeout_s: float) -> None:
        """Sleep until a job changes, at most `timeout_s`."""
        with self._changed:
            self._changed.wait(timeout_s)

    def close(self) -> None:
        """End every job and the server."""
        server, self._server = self._server, None
        if server is None:
            return
        for job in list(self._jobs.values()):
            job.kill()
        _end_input(server)
        try:
            server.wait(CLOSING_S if self._is_ready else 0)  # while it imports it does not read its input
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    def _send(self, request: dict[str, Any]) -> None:
        server = self._server
        assert server is not None and server.stdin is not None
        try:
            server.stdin.write(json.dumps(request).encode() + b"\n")
            server.stdin.flush()
        except BrokenPipeError:
            _end_input(server)
            server.wait()  # it has closed its input, so it ends: the next job gets a new one
            self._lose_jobs(server)

    def _listen(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdout is not None
        with server.stdout as answers:
            for line in answers:
                self._hear(json.loads(line))
        self._lose_jobs(server)

    def _hear(self, answer: dict[str, Any]) -> None:
        with self._changed:
            self._is_ready |= "ready" in answer
            job = self._jobs.get(answer.get("id", 0))
            if job is not None:
                job.pid = answer.get("pid", job.pid)
                job.exit_code = answer.get("status")
                if job.done():
                    del self._jobs[job.number]
            self._changed.notify_all()

    def _lose_jobs(self, server: subprocess.Popen[bytes]) -> None:
        """The server is gone, and with it (by the kernel's hand) all of its children."""
        with self._changed:
            for job in [job for job in self._jobs.values() if job.server is server]:
                job.exit_code = -signal.SIGKILL
                del self._jobs[job.number]
            self._changed.notify_all()


def _end_input(server: subprocess.Popen[bytes]) -> None:
    """Tell a server that no request will come, also one that is dead."""
    assert server.stdin is not None
    with suppress(BrokenPipeError):
        server.stdin.close()


def trial_environment() -> dict[str, str]:
    """What of this process's environment its trials get, and what is set for them."""
    return compose_environment(os.environ)


@contextmanager
def local_launcher() -> Iterator[LocalLauncher]:
    """Trials on this machine. The fork server begins to import with `start`, or when it is first needed."""
    with tempfile.NamedTemporaryFile(prefix="sweeper-launcher-", suffix=".log") as log:
        launcher = LocalLauncher(Path(log.name))
        try:
            yield launcher
        finally:
            launcher.close()
