"""Ctrl-C, SIGTERM and SIGHUP at any moment: one line, exit code 130, no traceback, no process left."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.cli.signals import INTERRUPTED, LINE, handled_signals, raise_interrupts
from tests.support.commands import GRID, processes_about, send, start, wait_for
from tests.support.sources import ROOT

IGNORING = """
import signal
from sweeper.cli import signals

signal.signal(signal.SIGHUP, signal.SIG_IGN)
with signals.handled_signals():
    signals.raise_interrupts()
    signal.raise_signal(signal.SIGHUP)
"""


def has_handler(process: subprocess.Popen[str]) -> bool:
    """Whether the process has handlers of its own: Python itself catches only SIGINT."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) & 1 << signal.SIGTERM - 1)


@pytest.mark.parametrize(
    ("number", "delay_s"),
    [
        (signal.SIGINT, 0.0), (signal.SIGINT, 0.3), (signal.SIGINT, 0.9),
        (signal.SIGTERM, 0.1), (signal.SIGHUP, 0.5),
    ],
)  # fmt: skip
def test_a_signal_while_libraries_are_imported_is_one_line(
    tmp_path: Path, number: signal.Signals, delay_s: float
) -> None:
    driver = start(tmp_path, *GRID)
    wait_for(lambda: has_handler(driver), timeout_s=20)
    time.sleep(delay_s)
    send(driver, number)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == INTERRUPTED, output
    assert output.splitlines()[-1] == LINE and "Traceback" not in output
    wait_for(lambda: not processes_about(tmp_path), timeout_s=10)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_signal_to_a_verb_is_one_line(tmp_path: Path) -> None:
    driver = start(tmp_path, "options")
    wait_for(lambda: has_handler(driver) or driver.poll() is not None, timeout_s=20)
    send(driver, signal.SIGINT)
    output, _ = driver.communicate(timeout=60)
    assert "Traceback" not in output and driver.returncode in (0, INTERRUPTED), output


def test_an_ignored_signal_stays_ignored() -> None:
    command = [sys.executable, "-c", IGNORING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and not done.stderr


def test_a_command_runs_in_a_thread(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["options", "lora"])))
    thread.start()
    thread.join()
    assert codes == [0] and "lora.r = " in capsys.readouterr().out


class Thing:
    """Something that a weak reference can point to."""


def drop_while_interrupted() -> None:
    """Drop a thing whose weak reference calls back when a signal comes, and wait a little."""
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
    del thing  # where Python drops what the callback raises
    for _ in range(500):
        time.sleep(0.01)
    assert reference() is None


def test_an_interrupt_that_comes_in_a_callback_of_a_weak_reference_is_not_lost() -> None:
    with handled_signals():
        raise_interrupts()
        with pytest.raises(KeyboardInterrupt):
            drop_while_interrupted()
