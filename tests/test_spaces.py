"""What may be swept, searched and referred to; every mistake in it is refused together with the others."""

from __future__ import annotations

import pytest

from sweeper.config import initialized_hydra
from sweeper.contract import Problem
from sweeper.dimensions import written
from sweeper.provenance import Machine
from sweeper.schema_search import SpaceConfig
from sweeper.space import ConfigurationError, Space, expand

HERE = Machine((), None, flash_attn=False, cpu="test")
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
    "search.n_trials=5": ("search.n_trials", "has no effect under strategy=grid"),
}


def test_mistakes_of_a_search_are_refused_together() -> None:
    found = refused(*MISTAKES, "strategy=grid", "evaluate.general=0")
    for key, rule in MISTAKES.values():
        assert any(item.key == key and rule in item.rule and item.remedy for item in found), rule


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
