"""Questions to processes of their own, and what becomes of them when somebody dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sweeper.contract.folder import TrialFolder
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.trial import Outcome, TrialResult
from sweeper.launchers.ask import NoReplyError, ask
from sweeper.launchers.local import LocalLauncher
from sweeper.launchers.recorded import RecordedJob, Recording
from tests.support.commands import environment, wait_for


class Scripted:
    """Answers each question as it is told to: by an exit code, or with 0 by the doubled number."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)

    def start(self) -> None: ...

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> RecordedJob:
        code = self.codes.pop(0)
        stderr.write_text(f"line 1\nended as told: {code}\n")
        if code == 0:
            write_json(folder / "predicted.json", {"twice": 2 * read_json(folder / "memory.json")["number"]})
        recording = Recording(TrialResult(Outcome.COMPLETED))
        return RecordedJob(TrialFolder(folder), recording, 0.0, exit_code=code)

    def wait(self, timeout_s: float) -> None: ...

    def close(self) -> None: ...


def test_a_process_that_was_killed_is_asked_again_once() -> None:
    launcher = Scripted(-9, 0)
    assert ask(launcher, "memory", {"number": 21}) == {"twice": 42}
    assert launcher.codes == []
    with pytest.raises(NoReplyError, match="killed by signal 9"):
        ask(Scripted(-9, -9, 0), "memory", {"number": 21})


def test_a_process_that_failed_by_itself_is_not_asked_again_and_its_log_is_shown(tmp_path: Path) -> None:
    launcher = Scripted(3, 0)
    with pytest.raises(NoReplyError, match="exit status 3") as caught:
        ask(launcher, "memory", {"number": 21}, tmp_path)
    assert caught.value.log == "line 1\nended as told: 3" and caught.value.log in str(caught.value)
    assert launcher.codes == [0]


def test_an_old_reply_is_no_reply(tmp_path: Path) -> None:
    ask(Scripted(0), "memory", {"number": 1}, tmp_path)
    with pytest.raises(NoReplyError):
        ask(Scripted(1), "memory", {"number": 1}, tmp_path)


class Doomed(LocalLauncher):
    """A launcher whose server is killed whenever it begins."""

    servers = 0

    def start(self) -> None:
        super().start()
        assert self._server is not None
        self.servers += 1
        os.kill(self._server.pid, signal.SIGKILL)


def test_a_server_that_is_killed_while_its_first_answer_is_awaited_ends_in_a_message(tmp_path: Path) -> None:
    launcher = Doomed(tmp_path / "log")
    launcher.start()
    with pytest.raises(NoReplyError, match="asked to `prepare` must answer, but it was killed by signal 9"):
        ask(launcher, "prepare", {"configs": []})
    launcher.close()
    assert launcher.servers >= 2


def test_a_server_that_is_still_importing_is_not_waited_for(tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path / "log")
    launcher.start()
    server = launcher._server
    assert server is not None
    launcher.close()
    assert server.returncode == -signal.SIGKILL


@pytest.fixture
def driver() -> Iterator[subprocess.Popen[str]]:
    """A driver whose server has begun to import; it prints the server's process id."""
    code = (
        "import pathlib, time; from sweeper.launchers.local import LocalLauncher\n"
        "launcher = LocalLauncher(pathlib.Path('/dev/null')); launcher.start()\n"
        "print(launcher._server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, text=True, env=environment()) as process:
        yield process
        process.kill()


def test_a_server_that_is_still_importing_dies_with_its_driver(driver: subprocess.Popen[str]) -> None:
    assert driver.stdout is not None
    server = psutil.Process(int(driver.stdout.readline()))
    wait_for(lambda: "trainers.warm" in " ".join(server.cmdline()))
    wait_for(lambda: any("torch" in item.path for item in server.memory_maps()))
    driver.send_signal(signal.SIGKILL)
    wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, timeout_s=5)
