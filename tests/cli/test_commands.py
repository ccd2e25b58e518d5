"""The table of verbs: help, hints, refusals and exit codes are the same for every one."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.cli.commands import VERBS
from sweeper.cli.main import OUTPUT_CLOSED, main
from tests.support.commands import environment
from tests.support.sources import ROOT
from tests.support.synthetic import methods_study

REFUSED = {
    "optoins": "did you mean options?",
    "stuides --json": "did you mean studies?",
    "elephant": "take one of machine, memory, plan",
    "options lroa": "did you mean lora?",
    "options elephant": "take one of model, data",
    "paper --nope": "paper must know the flag, but --nope",
    "paper nowhere": "ROOT must be one folder that holds studies",
    "paper . .": "ROOT must be one folder that holds studies",
    "best --jsn": "did you mean --json?",
    "best --json=yes": "--json",
    "memory --jsn lora.rnk=3": "2 mistakes",
    "export --format": "expected one argument",
    "export --format=xml": "take one of csv",
    "ui --port=²": "take one of 1 to 65535",
    "ui --port=80000": "take one of 1 to 65535",
    "sync study.name=nothing": "study.name must name a study",
    "sync study.root=nowhere": "study.root must be a folder that holds studies",
    "studies study.root=nowhere": "study.root must be a folder that holds studies",
    "production production.trial=²": "production.trial",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with one study."""
    monkeypatch.chdir(tmp_path)
    methods_study(tmp_path / "studies" / "methods")
    return tmp_path


@pytest.mark.parametrize(("typed", "said"), REFUSED.items(), ids=list(REFUSED))
def test_every_mistake_in_arguments_is_refused_with_a_hint(
    here: Path, capsys: pytest.CaptureFixture[str], typed: str, said: str
) -> None:
    assert main(shlex.split(typed)) == 2
    printed = capsys.readouterr()
    assert said in printed.err and not printed.out
    assert sorted(path.name for path in here.iterdir()) == ["studies"]


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_a_row_a_file_and_a_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert (ROOT / "sweeper" / "cli" / "verbs" / f"{name}.py").exists()
    assert main([name, "--help"]) == 0
    told = capsys.readouterr().out
    assert f"python -m sweeper {name}" in told
    assert all(flag.name in told and flag.meaning in " ".join(told.split()) for flag in VERBS[name].flags)
    assert main(["--help"]) == 0
    assert VERBS[name].summary in capsys.readouterr().out


@pytest.mark.parametrize("command", ["best", "options", "studies", "export --format=json"])
def test_a_closed_pipe_is_no_traceback(here: Path, command: str) -> None:
    text = f"{sys.executable} -m sweeper {command} | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", text], cwd=here, capture_output=True, text=True, timeout=60, check=False,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert len(done.stdout) == 1 and not done.stderr
    assert done.returncode in (0, OUTPUT_CLOSED), "0 where all was written before the reader went"
