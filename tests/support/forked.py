"""`python -m sweeper` without its imports: forked from a process that has made them.

Of the computing that a short command takes, most is importing: mlflow and optuna in the driver, torch,
transformers and peft in its fork server. Here one process imports all of it, and each command is a fork of
it: a process of its own, with a session, a folder, an environment and standard streams of its own, whose
fork server is a process of its own too, and forks the trials. Run as a program, this file is that process.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run(
    arguments: Sequence[str], folder: Path, environment: dict[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run it to its end. After `timeout_s` it is killed."""
    with tempfile.NamedTemporaryFile("r") as stdout, tempfile.NamedTemporaryFile("r") as stderr:
        code = run_on((stdout.name, stderr.name), arguments, folder, environment, timeout_s)
        return subprocess.CompletedProcess(list(arguments), code, stdout.read(), stderr.read())


def run_on(
    streams: tuple[str, str],
    arguments: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    timeout_s: float,
) -> int:
    """The same with paths that are opened as its standard output and error; the exit code."""
    process = _process()
    assert process.stdin is not None and process.stdout is not None
    asked = {"arguments": arguments, "folder": str(folder), "streams": streams, "environment": environment}
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    process.stdin.flush()
    timer = threading.Timer(timeout_s, os.killpg, (json.loads(process.stdout.readline()), signal.SIGKILL))
    timer.start()
    code = json.loads(process.stdout.readline())
    timer.cancel()
    return int(code)


@cache
def _process() -> subprocess.Popen[bytes]:
    """The process that commands are forked from: one for all tests of this process."""
    from sweeper.launchers import local

    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.forked"],
        cwd=ROOT,
        env={**local.trial_environment(), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def close() -> None:
    """End that process, if there is one."""
    if _process.cache_info().currsize:
        _process().communicate()  # closes its input, at which it ends
        _process.cache_clear()


def main() -> None:
    """Import, then fork a child per line of the input, and say its pid and its exit code."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    _import()
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            answers.close()
            _command(**json.loads(line))
        answers.write(b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        answers.write(b"%d\n" % os.waitstatus_to_exitcode(status))


def _import() -> None:
    from sweeper.tracking import preload
    from trainers import devices, warm

    with devices.untouched():
        preload.prepare_environment()
        for name in preload.LIBRARIES:
            importlib.import_module(name)
        import sweeper.cli.display
        import sweeper.cli.main
        import sweeper.production.run  # noqa: F401

        warm._preload()
    assert threading.active_count() == 1, "a fork has no other threads than the one that forks"
    gc.collect()
    gc.freeze()


def _command(arguments: list[str], folder: str, streams: list[str], environment: dict[str, str]) -> None:
    """Become `python -m sweeper`. Raises SystemExit."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    subprocess.Popen = Forking  # type: ignore[misc, assignment]
    sys.argv[1:] = arguments
    runpy.run_module("sweeper", run_name="__main__", alter_sys=True)


class Forking(subprocess.Popen[Any]):
    """Starts the fork server as a fork, all else as it is."""

    def __init__(self, command: Any, **options: Any) -> None:
        from sweeper.launchers.local import SERVER

        if command is SERVER:
            sys.stdout.flush()  # else the fork would write it again
            options["preexec_fn"] = lambda: _become_server(options["env"])
        super().__init__(command, **options)


def _become_server(environment: dict[str, str]) -> None:
    """Never returns to Popen, which would execute a program now."""
    from trainers import warm

    os.closerange(3, 1024)  # among them the pipe in which the parent waits for the program to begin
    os.environ.clear()
    os.environ.update(environment)
    try:
        warm.main()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
