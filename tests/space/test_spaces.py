"""What may be swept, searched and referred to; every mistake in it is refused together with the others."""

from __future__ import annotations

import itertools
import sys
import tomllib
from pathlib import Path

import pytest

from sweeper.config.cell import ConfigurationError
from sweeper.config.hydra import initialized_hydra
from sweeper.contract.folder import TrialFolder
from sweeper.contract.study_config import SpaceConfig
from sweeper.contract.trial import Problem, TrialSpec
from sweeper.machine import Machine
from sweeper.space.conditions import written
from sweeper.space.expand import expand
from sweeper.space.space import Space
from sweeper.study.records import StudyRecord, TrialRecord, reproduction
from tests.support.sources import ROOT

HERE = Machine(cpu="test")
"""A machine without a GPU."""


def space(*arguments: str, reads: bool = False) -> Space:
    with initialized_hydra():
        return expand(arguments, "config", HERE, reads)


def refused(*arguments: str) -> list[Problem]:
    with pytest.raises(ConfigurationError) as error:
        space(*arguments)
    return [problem for problem, _ in error.value.problems]


MISTAKES = {
    "optim=glob(*)": ("optim", "must list its values"),
    "precision=interval(0,1)": ("precision", "an option that holds a number"),
    "lora.r=interval(8,8)": ("lora.r", "must begin below its end"),
    "objective.minimize=energy_per_token_j": ("objective.minimize", "needs a CUDA device"),
    "constraint.at_least=[exact_match:0.5]": ("evaluate.generate", "exact_match (constraint.at_least) needs"),
    "constraint.at_most=[forgetting:0.1]": ("evaluate.general", "forgetting (constraint.at_most) needs"),
    "constraint.baseline='foo=1 lora.r'": ("constraint.baseline", "must name options that exist"),
    "space.never=['checkpointing=true']": ("space", "values that the option takes"),
    "space.only_when.lora.r='optim=adamw'": ("space.only_when.lora.r", "takes its options in braces"),
    "search.n_trials=5": ("search.n_trials", "has no effect under strategy=grid"),
}


def test_mistakes_of_a_search_are_refused_together() -> None:
    found = refused(*MISTAKES, "strategy=grid", "evaluate.general=0")
    for key, rule in MISTAKES.values():
        assert any(item.key == key and rule in item.rule and item.remedy for item in found), rule


def test_a_sampler_whose_package_is_missing_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    (problem,) = refused("train.learning_rate=interval(1e-4,1e-2)", "search.sampler=cmaes")
    assert problem.remedy == "pip install 'finetune-sweeper[cmaes]'"
    assert "cmaes" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_the_name_of_hydras_own_sweeper_sets_the_number_of_trials() -> None:
    assert space("lora.r=8,16", "hydra.sweeper.n_trials=2").config.search.n_trials == 2


def test_what_a_machine_measures_does_not_matter_to_whoever_only_reads() -> None:
    asked = "objective.minimize=energy_per_token_j"
    assert space(asked, reads=True).config.objective.minimize == "energy_per_token_j"


def test_a_baseline_is_written_as_the_cell_that_it_names() -> None:
    asked = ("optim=adamw,adafactor", "train.learning_rate=1e-3,5e-3")
    found = space(*asked, "constraint.baseline='optim=adafactor lora.r=8'")
    assert found.config.constraint.baseline == "optim=adafactor train.learning_rate=0.005"
    found = space(*asked, "constraint.baseline='train.learning_rate=1e-3'")
    assert found.config.constraint.baseline == "optim=adamw train.learning_rate=0.001"
    assert found.config.constraint.baseline in {cell.label for cell in found.cells}
    found = space("lora.use_dora=true,false", "constraint.baseline='lora.use_dora=false'")
    assert found.config.constraint.baseline == "lora.use_dora=False"


def test_a_baseline_breaks_no_rule() -> None:
    (problem,) = refused("lora.r=8,16", "constraint.baseline='quantization=nf4 adapter=full'")
    assert "nf4" in problem.value or "nf4" in problem.rule


def test_an_option_is_swept_only_when_its_condition_holds() -> None:
    asked = SpaceConfig(
        sweep={"lora.use_dora": "true,false"}, only_when={"lora.use_dora": "quantization=none"}
    )
    _, conditions, problems = written(asked)
    cell = {"quantization": "nf4", "lora.use_dora": "true"}
    assert not problems
    assert conditions.active(cell, {}) == {"quantization": "nf4"}
    assert conditions.active({**cell, "quantization": "none"}, {}) == {**cell, "quantization": "none"}


def test_conditions_and_values_of_a_space_can_be_typed() -> None:
    found = space(
        "quantization=none,nf4",
        "space.sweep={lora.use_dora: 'false,true'}",
        "space.only_when={lora.use_dora: 'quantization=none'}",
    )
    doras = [(cell.overrides["quantization"], cell.config.lora.use_dora) for cell in found.cells]
    assert doras == [("none", False), ("nf4", False), ("none", True)]


def test_an_option_with_one_value_on_the_command_line_keeps_it_in_a_written_space() -> None:
    found = space("strategy=paper", "batch.micro=4", "precision=bf16")
    assert {cell.overrides["batch.micro"] for cell in found.cells} == {"4"}
    assert {cell.config.precision for cell in found.cells} == {"bf16"}
    assert len(found.dimensions["batch.effective"].ends) > 1


@pytest.mark.parametrize("swept", [(), ("optim=adamw,adafactor",)], ids=["its own space", "another"])
def test_the_paper_refuses_a_micro_batch_that_is_left_to_the_prediction(swept: tuple[str, ...]) -> None:
    (problem,) = refused("strategy=paper", "batch.micro=auto", "trial.memory_limit_gib=1", *swept)
    assert (problem.key, problem.value) == ("batch.micro", "auto") and "list numbers" in problem.remedy
    assert "strategy=paper finds the micro batch by measuring" in problem.rule


def test_a_condition_holds_however_its_values_are_written() -> None:
    left_out = ("lora.use_dora=true optim=adamw", "train.learning_rate=1e-4 lora.use_dora=false")
    asked = SpaceConfig(
        sweep={"lora.use_dora": "true,false", "train.learning_rate": "1e-4,1e-3"}, never=left_out
    )
    dimensions, conditions, problems = written(asked)
    assert not problems
    doras, rates = (dimensions[key].ends for key in asked.sweep)
    kept = [
        (dora, rate)
        for dora, rate in itertools.product(doras, rates)
        if conditions.active({"lora.use_dora": dora, "train.learning_rate": rate}, {"optim": "adafactor"})
    ]
    assert kept == [("True", "0.0001"), ("True", "0.001"), ("False", "0.001")]


def test_the_command_of_one_trial_is_without_the_space_that_it_was_drawn_from() -> None:
    overrides = ("space=paper", "space.only_when={lora.r: 'optim=adamw'}", "train.steps=3")
    study = StudyRecord("s", "", "", overrides, {"lora.r": ["8"]}, {})
    trial = TrialRecord(TrialSpec("s", 0, "key", {}, {"lora.r": "8"}), None, TrialFolder(Path("-")))
    assert reproduction(study, trial) == "python -m sweeper train.steps=3 lora.r=8"


def test_an_option_that_is_given_two_values_is_told_and_the_same_twice_is_fine() -> None:
    found = refused("lora.r=4,8", "lora.r=16", "search.n_trials=2", "hydra.sweeper.n_trials=3")
    assert {(item.key, item.value) for item in found if "given once" in item.rule} == {
        ("lora.r", "4,8 and 16"), ("search.n_trials", "2 and 3"),
    }  # fmt: skip
    assert space("lora.r=4,8", "lora.r=4,8", "train.steps=9", "train.steps=9").swept == {"lora.r": ["4", "8"]}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("lora.r=range(1,100000000)", "99,999,999"),
        ("train.learning_rate=range(1,2,1e-9)", "1,000,000,000"),
        ("lora.dropout=range(0,1,0)", "range(0,1,0)"),
    ],
)
def test_a_sweep_too_large_to_list_is_refused_with_its_number(typed: str, said: str) -> None:
    (problem,) = refused(typed)
    assert said in problem.value


def test_a_grid_too_large_to_list_is_refused_with_its_number() -> None:
    (problem,) = refused("lora.r=range(1,1001)", "train.seed=range(0,1000)")
    assert problem.value == "1,000,000" and "search.n_trials" in problem.remedy
    assert space("lora.r=range(1,1001)", "train.seed=range(0,1000)", "search.n_trials=5").size == 1_000_000


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lora.rnk", "take lora.r"),
        ("lora.rank", "take lora.r"),
        ("study.nam", "take study.name"),
        ("optm", "take optim"),
        ("constraint.peak_memry_gib", "take constraint.peak_memory_gib"),
        ("learning_rate", "take train.learning_rate"),
        ("model.rate", "see `python -m sweeper options`"),
        ("elephant.trunk", "see `python -m sweeper options`"),
    ],
)
def test_only_names_that_are_near_are_hinted_at(typed: str, meant: str) -> None:
    (problem,) = refused(f"{typed}=1")
    assert problem.remedy.startswith(meant)
