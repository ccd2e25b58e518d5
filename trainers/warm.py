"""A fork server: imports the training stack once and forks a clean child per trial.

Importing torch, transformers and peft takes seconds; a fork takes a fraction of one. Requests come as
JSON lines on standard input, answers leave on standard output:

    {"id": 3, "verb": "trial", "folder": …, "stdout": …, "stderr": …}  ->  {"id": 3, "pid": 4711}
                                                                       ->  {"id": 3, "status": 0}

The server starts no thread and never touches CUDA (`trainers.devices`). When its input ends (its driver
is gone, however it died) it kills every child's process group and ends.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import selectors
import signal
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
"""linux/prctl.h: the signal that a process gets when its parent dies."""
DRIVER = "SWEEPER_DRIVER"
"""The variable that holds the driver's process id."""


class Server:
    """The loop: read requests, fork, report the children that ended."""

    def __init__(self, answers: int, wakeup: int) -> None:
        """`answers`: file descriptor for the answers; `wakeup`: readable when a child has ended."""
        self._answers = answers
        self._wakeup = wakeup
        self._children: dict[int, int] = {}
        self._pending = b""

    def serve(self) -> None:
        """Serve until the input ends, then leave no child behind."""
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(self._wakeup, selectors.EVENT_READ)
            while self._serve_once([key.fd for key, _ in selector.select()]):
                pass
        for pid in self._children:
            _kill_group(pid)

    def _serve_once(self, ready: list[int]) -> bool:
        if self._wakeup in ready:
            os.read(self._wakeup, 512)
            self._reap()
        if 0 in ready:
            received = os.read(0, 1 << 16)
            if not received:
                return False
            *lines, self._pending = (self._pending + received).split(b"\n")
            for line in lines:
                self._start(json.loads(line))
        return True

    def _start(self, request: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            _become_child(request, (self._answers, self._wakeup))
        self._children[pid] = request["id"]
        self._answer({"id": request["id"], "pid": pid})

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            _kill_group(pid)  # whatever the trial started ends with it
            self._answer({"id": self._children.pop(pid), "status": os.waitstatus_to_exitcode(status)})

    def _answer(self, answer: dict[str, Any]) -> None:
        os.write(self._answers, json.dumps(answer).encode() + b"\n")


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _become_child(request: dict[str, Any], inherited: tuple[int, int]) -> None:
    """Turn the fork into a process of its own and do the work. Never returns."""
    code = 1
    try:
        os.setsid()
        _die_with_parent(signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in inherited:
            os.close(descriptor)
        _redirect(request["stdout"], request["stderr"])
        code = _work(request["verb"], Path(request["folder"]))
    except BaseException:  # noqa: BLE001 - a fork must never return into the server's loop
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_with_parent(number: int) -> None:
    """Have the kernel send this process signal `number` when its parent dies; 0: none."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def _redirect(stdout: str, stderr: str) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)


def _work(verb: str, folder: Path) -> int:
    from trainers import __main__ as trial
    from trainers import machine, prepare
    from trainers.memory import __main__ as predict
    from trainers.production import publish

    others = {
        "machine": machine.main,
        "memory": predict.main,
        "prepare": prepare.main,
        "publish": publish.main,
    }
    if verb in others:
        others[verb](folder)
        return 0
    return trial.main([str(folder)])


def _preload() -> None:
    gc.disable()  # imports make no garbage, and looking for it takes a tenth of their time
    from trainers import devices

    with devices.untouched():
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        import trainers.memory.__main__
        import trainers.prepare
        import trainers.trial  # noqa: F401

        get_checkpoint_conversion_mapping("")  # compiles what renames the weights of all architectures
    gc.enable()
    gc.collect()
    gc.freeze()  # what is here now is not the children's garbage


def main() -> None:
    """Import everything, say so, serve. A driver that dies meanwhile takes the server with it."""
    _die_with_parent(signal.SIGKILL)
    if os.environ.pop(DRIVER, str(os.getppid())) != str(os.getppid()):
        return  # it died before the kernel knew
    answers = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not speak the protocol
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _preload()
    _die_with_parent(0)  # from now on its input tells, and no grandchild is left behind
    os.write(answers, b'{"ready": true}\n')
    Server(answers, read_end).serve()


if __name__ == "__main__":
    main()
