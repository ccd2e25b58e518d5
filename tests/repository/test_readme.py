"""Every command in the README does what it says, in a folder that holds what it asks for."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from sweeper.cli.commands import VERBS
from sweeper.contract.measurements import MAIN_METRICS, METRICS
from tests.support.commands import GRID, SHORT, sweeper
from tests.support.readme import MAIN_JOB, README, commands
from tests.support.samples import save_llama, write_gsm8k
from tests.support.sources import ROOT
from tests.support.stores import with_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are run, one after the other, as a reader would."""
    folder = with_store(tmp_path_factory.mktemp("readme"))
    save_llama(folder / "my-llama")
    write_gsm8k(folder / "train.jsonl", 80)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", list(commands()))
def test_the_command_runs(folder: Path, command: str) -> None:
    words = shlex.split(command)
    if words[:2] == ["mlflow", "ui"]:
        assert_serves(folder, words)
        return
    assert words[:3] == ["python", "-m", "sweeper"], "teach this test the command"
    if any("=" in word for word in words) and words[3] not in VERBS:
        words += SHORT
    if words[3] == "production":
        words.append("production.steps=4")
    done = sweeper(folder, *words[3:])
    assert done.returncode == 0, done.stdout + done.stderr


def assert_serves(folder: Path, words: list[str]) -> None:
    program = Path(sys.executable).with_name(words[0])
    server = subprocess.Popen(
        [program, *words[1:], "--port", "5213"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        assert answers("http://127.0.0.1:5213/health")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(url: str, timeout_s: float = 90) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except OSError:
            time.sleep(0.5)
    return False


def test_the_main_job_is_in_the_readme() -> None:
    assert MAIN_JOB in README
    assert shlex.split(MAIN_JOB)[3:] == [word for word in GRID if word not in SHORT]


def test_the_metrics_are_told_in_the_words_of_their_table() -> None:
    table = README.partition("| metric | meaning |")[2].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    assert set(MAIN_METRICS) <= set(told)
    assert told == {name: METRICS[name].definition for name in told}


def test_files_that_the_readme_links_are_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links)
