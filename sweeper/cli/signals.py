"""Ctrl-C, SIGTERM and SIGHUP at any moment: one line and exit code 130, never a traceback.

As long as there is nothing to clean up (imports, reading) the process ends at once. Later the signal becomes
a KeyboardInterrupt. Standard library only: this is installed before anything else is imported.
"""

from __future__ import annotations

import _thread
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

INTERRUPTED = 130
"""Exit code: 128 and the number of SIGINT, as shells have it. The same command continues."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 0.05
"""When an interrupt comes again that was lost."""
LINE = "Interrupted. The same command continues."


@contextmanager
def handled_signals() -> Iterator[None]:
    """End the process on a signal, until `raise_interrupts`. A signal that is ignored stays so (nohup).

    Without effect in a thread, where Python cannot handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = {number: signal.getsignal(number) for number in SIGNALS}, sys.unraisablehook
    _install(_leave, before)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            with suppress(TypeError):  # None: it was not installed from Python
                signal.signal(number, handler)


def raise_interrupts() -> None:
    """From now on a signal raises KeyboardInterrupt: there is something to clean up."""
    _replace(_raise)
    sys.unraisablehook = _raise_again


def leave_on_signals() -> None:
    """From now on a signal ends the process at once: all is cleaned up."""
    _replace(_leave)


def call_on_signals(action: Callable[[], None]) -> None:
    """From now on a signal does nothing but this."""
    _replace(lambda *_: action())


def _replace(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        _install(handler, {number: signal.getsignal(number) for number in SIGNALS})


def _install(handler: Any, before: dict[signal.Signals, Any]) -> None:
    for number, known in before.items():
        if known is not signal.SIG_IGN:
            signal.signal(number, handler)


def _leave(*_: Any) -> None:
    with suppress(OSError):
        os.write(2, f"{LINE}\n".encode())
    os._exit(INTERRUPTED)


def _raise(number: int, _: Any) -> None:
    if number == signal.SIGHUP:
        close_lost_terminal()
    raise KeyboardInterrupt(number)


def _raise_again(lost: Any) -> None:
    """Python drops what is raised in a callback of a weak reference, of which databases have many: an
    interrupt that came there comes again."""
    if lost.exc_type is KeyboardInterrupt:
        number = lost.exc_value.args[0] if lost.exc_value and lost.exc_value.args else signal.SIGINT
        again = threading.Timer(AGAIN_S, _thread.interrupt_main, (number,))  # not now: this is dropped, too
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def close_lost_terminal() -> None:
    """Let what is still printed go nowhere when the terminal is gone: writing to it would fail."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            descriptor = stream.fileno()
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                _silence(descriptor)


def close_output() -> None:
    """Let what is still printed go nowhere: nobody reads it (`| head -1`)."""
    with suppress(OSError, ValueError):
        _silence(sys.stdout.fileno())


def _silence(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
