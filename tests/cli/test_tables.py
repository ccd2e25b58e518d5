"""What is printed stays whole: numbers on narrow screens, names that look like markup, poor locales."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from sweeper.cli.main import main
from sweeper.cli.tables import print_table
from sweeper.config.hydra import to_override
from sweeper.contract.config import Config
from sweeper.production.run import take_order
from sweeper.study.folder import StudyFolder
from tests.support.commands import environment
from tests.support.synthetic import methods_study, write_study, write_trial

HEADINGS = ("rank", "trial", "cell", "outcome", "tokens/s", "peak MiB", "eval loss", "note")
CELL = "lora.target_modules=[q_proj,v_proj] optim=adafactor model.path=[/c]"
ROW = ("1", "14", CELL, "predicted_oom", "3,822", "1,173", "2.9265", "trial 0 within its noise")
ODD = "my [b] =[1] ~ü it's"


@pytest.mark.parametrize("width", [200, 80, 40])
def test_no_number_is_cut_and_no_name_is_taken_for_markup(width: int) -> None:
    screen = io.StringIO()
    print_table(Console(file=screen, width=width), HEADINGS, [ROW])
    text = screen.getvalue()
    for whole in (*ROW[:2], *ROW[3:7], *HEADINGS):
        assert whole in text, whole
    places = range(text.splitlines()[1].index("cell"), text.splitlines()[1].index("outcome"))
    folded = "".join(line[place] for line in text.splitlines()[3:] for place in places if place < len(line))
    assert folded.replace(" ", "") == CELL.replace(" ", "")
    assert width < 80 or max(map(len, text.splitlines())) <= width


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose one study has a name that needs quotes everywhere."""
    monkeypatch.chdir(tmp_path)
    folder = write_study(tmp_path / ODD / ODD, {"lora.target_modules": ["[/c]", "[q_proj]"]})
    for number in range(2):
        write_trial(folder, number, {"lora.r": "8", "train.optim_args": "a=[/c]"}, energy_j=5.0)
    return tmp_path


def test_odd_names_are_printed_and_understood(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, name = to_override("study.root", ODD), to_override("study.name", ODD)
    assert main(["studies", root]) == 0
    shown = capsys.readouterr().out
    assert ODD in " ".join(shown.split()) and "train.optim_args=a=[/c]" in shown
    assert main(["best", root, name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"]["trial"] in (0, 1)
    assert main(["sync", root, to_override("tracking.uri", f"sqlite:///{odd}/{ODD}.db")]) == 0
    assert f"{ODD}: 2 trials are in" in capsys.readouterr().out


def test_the_printed_production_command_means_the_same_study(odd: Path) -> None:
    arguments = [to_override("study.root", ODD), to_override("production.name", ODD), "production.steps=4"]
    again = shlex.split(take_order(arguments).command)
    assert again[:4] == ["python", "-m", "sweeper", "production"]
    order = take_order(again[4:])
    assert order.study.record.name == ODD and order.config.production.name == ODD


@pytest.mark.parametrize(
    "value",
    [ODD, "a,b", "x=1", "null", "1e5", "2024", "", "end\\", 'a"b\\', "a:b", None, True, 1.5, ["a b", None]],
)
def test_an_override_gives_back_the_value_that_it_was_made_of(value: object) -> None:
    found = OverridesParser.create().parse_override(to_override("key", value)).value()
    assert found == value


def test_a_locale_without_our_letters_stops_no_command(tmp_path: Path) -> None:
    methods_study(tmp_path / "studies" / "ü")
    poor = {**environment(), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for verb in ("studies", "best", "export --format=json"):
        command = [sys.executable, "-m", "sweeper", *verb.split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=poor, check=False, timeout=60)
        assert done.returncode == 0 and not done.stderr, done.stderr
    assert json.loads(done.stdout)


def test_one_bad_study_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "studies"
    for name in ("good", "of_another_shape", "is_a_folder", "is_a_loop"):
        write_trial(write_study(root / name, {"lora.r": ["8"]}), 0, {"lora.r": "8"})
    spec = StudyFolder(root / "of_another_shape").trial(0).spec
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "config": ["a", "list"]}))
    for name in ("is_a_folder", "is_a_loop"):
        (root / name / "study.json").unlink()
    (root / "is_a_folder" / "study.json").mkdir()
    (root / "is_a_loop" / "study.json").symlink_to("study.json")
    (root / "a file").write_text("nothing")
    assert main(["studies", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["good"]["best"]["trial"] == 0
    assert {rows[name]["state"] for name in ("of_another_shape", "is_a_folder")} == {"unreadable"}
    assert all(rows[name]["problem"] for name in ("of_another_shape", "is_a_folder"))
    assert main(["studies"]) == 0
    printed = capsys.readouterr()
    assert "good" in printed.out and "of_another_shape: " in printed.err
    assert main(["best", "study.name=of_another_shape"]) == 1
    assert "a record must be whole" in capsys.readouterr().err


def test_the_defaults_survive_being_written_as_overrides() -> None:
    parser = OverridesParser.create()
    for section, values in Config().to_dict().items():
        if isinstance(values, dict):
            for name, value in values.items():
                found = parser.parse_override(to_override(f"{section}.{name}", value)).value()
                assert found == (list(value) if isinstance(value, tuple) else value)
