"""Hydra's flags, folders and options work as its users expect, or are refused in our words."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sweeper.cli.hydra_doors import CommandLine, complete_overrides, read_command_line
from sweeper.cli.main import main
from sweeper.config.hydra import groups, initialized_hydra
from sweeper.contract.trial import Problem
from tests.support.commands import sweeper, trials
from tests.support.stores import with_store

QUICK = """\
# @package _global_
train: {steps: 3}
trial: {warmup_steps: 1}
data: {max_train_examples: 64, max_eval_examples: 8}
evaluate: {general: 4}
"""
FILES = {
    "experiment/quick.yaml": QUICK,
    "optim/mine.yaml": "# @package _global_\noptim: adamw_torch\ntrain: {learning_rate: 0.001}\n",
    "space/two.yaml": "sweep: {lora.r: '4,8'}\n",
    "mine.yaml": "defaults: [config, _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {lora.r: '4,8'}}}\n",
    "foreign.yaml": "defaults: [config, _self_]\nhydra: {run: {dir: elsewhere}, sweeper: {n_trials: 7}}\n",
}
SHOWN_ALONE = {
    "--shell-completion nope": "write install=bash",
    "--config-dir=nowhere --cfg=job": "--config-dir must be a folder of options",
    "--cfg": "a flag must be complete",
    "--cfg job --info": "give one of --cfg",
    "--cfg job --multrun": "did you mean --multirun",
    "--config-path=x --hydra-help": "use --config-dir=…",
    "--experimental-rerun=x.pickle --info": "no pickle is read",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with options of one's own in `my conf=1`."""
    folder = with_store(tmp_path_factory.mktemp("doors"))
    for name, text in FILES.items():
        path = folder / "my conf=1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def read(*arguments: str) -> tuple[CommandLine, list[str], list[Problem]]:
    line = read_command_line(arguments)
    with initialized_hydra(line.folders):
        return line, *complete_overrides(line)


def test_a_folder_of_ones_own_is_swept_and_its_best_trial_run_again_as_printed(folder: Path) -> None:
    flags = ("--config-dir", "my conf=1", "--config-name=mine")
    done = sweeper(folder, *flags, "+experiment=quick", "optim=mine,adamw", "study.name=s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(trials(folder)) == 4 and done.stdout.count("completed") >= 8, "the table holds all four"
    found = re.search(r"Run it again: (.*)", done.stdout)
    assert found is not None
    again = sweeper(folder, *shlex.split(found[1])[3:], "study.name=s2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "lora.r=" in found[1] and "--config-name=mine" in found[1]
    assert len(list((folder / "studies" / "s2" / "trials").iterdir())) == 1


def test_groups_of_ones_own_are_known_wherever_they_are_named(here: Path) -> None:
    with initialized_hydra(["my conf=1"]):
        found = groups()
    assert found["experiment"] == ["quick"] and {"mine", "adamw", "sgd"} <= set(found["optim"])
    place = f"hydra.searchpath=['file://{here}/my conf=1']"
    _, overrides, problems = read(place, "+experiment=quick", "optim=mine", "space=two")
    assert overrides == [place, "+experiment=quick", "optim=mine", "space=two"] and not problems


def test_sweeps_in_files_hold_where_the_command_line_says_nothing(here: Path) -> None:
    place = ("--config-dir=my conf=1", "--config-name=mine.yaml")
    line, overrides, problems = read("train.steps=3", *place)
    assert overrides == ["lora.r=4,8", "train.steps=3"] and not problems
    assert line.flags == ["--config-dir=my conf=1", "--config-name=mine"]
    assert read(*place, "lora.r=16")[1] == ["lora.r=16"]
    _, overrides, problems = read("--config-dir=my conf=1", "--config-name=foreign", "-m", "lora.r=4,8")
    assert overrides == ["search.n_trials=7", "lora.r=4,8"]
    assert [problem.key for problem in problems] == ["hydra.run.dir"]


def test_flags_and_overrides_stand_in_any_order() -> None:
    line = read_command_line(["lora.r=4,8", "-m", "optim=adamw"])
    assert line.is_multirun and line.overrides == ("lora.r=4,8", "optim=adamw") and not line.problems


def test_what_has_no_place_here_is_refused_together_with_what_says_the_same(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(
        [
            "--bogus", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3", "hydra/sweeper=optuna",
            "hydra.sweeper.direction=minimize", "hydra.sweep.dir=x", "hydra.job.chdir=true", "lora.r=4,8",
            "experiment=quick", "--config-dir=my conf=1", "+optim=mine", "+experiment=quik", "lora.alpha=x",
        ]
    ) == 2  # fmt: skip
    told = capsys.readouterr().err
    for words in (
        "12 mistakes", "--bogus", "slots=N", "search.sampler", "objective.minimize", "study.root",
        "hydra.job.chdir", "several values need -m", "write +experiment=quick", "write optim=mine",
        "take one of quick", "lora.alpha",
    ):  # fmt: skip
        assert words in told, words
    assert "Hydra's answer" not in told


@pytest.mark.parametrize(("typed", "said"), SHOWN_ALONE.items(), ids=list(SHOWN_ALONE))
def test_wrong_flags_are_refused_in_our_words(
    here: Path, capsys: pytest.CaptureFixture[str], typed: str, said: str
) -> None:
    assert main(shlex.split(typed)) == 2
    assert said in capsys.readouterr().err


def test_a_configuration_that_cannot_be_composed_is_a_mistake(folder: Path) -> None:
    done = sweeper(folder, "--config-name=nope")
    assert done.returncode == 2 and "the configuration must compose" in done.stderr
    assert "Cannot find primary config 'nope'" in done.stderr and "Traceback" not in done.stderr


def test_hydra_shows_the_configuration_with_ones_own_options(folder: Path) -> None:
    done = sweeper(folder, "--cfg", "job", "optim=mine", "--config-dir", "my conf=1")
    assert done.returncode == 0, done.stderr
    assert "learning_rate: 0.001" in done.stdout
    assert sweeper(folder, "--cfg", "job", "lora.rnk=1").returncode == 2
