"""The verdict of a study: what won, why, and what each switch bought."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.cells import cells
from sweeper.analysis.choice import Choice, reasons
from sweeper.analysis.cumulative import ways
from sweeper.analysis.noise import interval
from sweeper.analysis.open import OpenStudy, opened
from sweeper.analysis.relaxation import rounded
from sweeper.contract.study_config import ObjectiveConfig
from sweeper.contract.trial import GIB, Outcome
from sweeper.ranking.pareto import pareto_front
from sweeper.ranking.ranking import rank
from sweeper.study.folder import StudyFolder
from tests.support.synthetic import METHODS, grid, measured, methods_study, write_study, write_trial


def limited(study: OpenStudy, **limits: Any) -> Choice:
    """The study judged with other constraints."""
    changed: Any = limits
    constraint = dataclasses.replace(study.config.constraint, **changed)
    config = dataclasses.replace(study.config, constraint=constraint)
    return OpenStudy(study.folder, study.record, config).choice


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> OpenStudy:
    return opened(methods_study(tmp_path_factory.mktemp("choice") / "methods"))


def test_the_best_cell_is_ranked_again_under_another_constraint(methods: OpenStudy) -> None:
    free, tight = limited(methods), limited(methods, peak_memory_gib=1.0)
    assert free.best is not None and free.best.settings["checkpointing"] == "off"
    assert tight.best is not None
    assert (tight.best.record.metric("peak_memory_bytes") or 0) <= GIB
    assert any("more tokens_per_s but are out" in line for line in reasons(tight))


def test_the_neighbour_differs_from_the_best_in_one_switch(methods: OpenStudy) -> None:
    choice = limited(methods)
    assert choice.best is not None and choice.neighbour is not None
    mine, other = choice.best.settings, choice.neighbour.cell.settings
    assert [key for key in mine if mine[key] != other[key]] == [choice.neighbour.switch]


def test_main_effects_are_those_that_were_put_in(methods: OpenStudy) -> None:
    found = {(effect.switch, effect.after): effect for effect in limited(methods).effects}
    precision, checkpointing = found["precision", "bf16"], found["checkpointing", "on"]
    assert precision.before == "fp32" and precision.deltas["tokens_per_s"].ratio == pytest.approx(1.8)
    assert checkpointing.deltas["tokens_per_s"].ratio == pytest.approx(0.75)
    assert checkpointing.deltas["peak_memory_bytes"].mean == pytest.approx(-400 * 2**20)
    assert found["optim", "bnb8"].deltas["eval_loss"].mean == 0
    assert checkpointing.gained >= 1, "a cell that fits only with checkpointing"


def test_independent_switches_do_not_interact(methods: OpenStudy) -> None:
    for item in limited(methods).interactions:
        assert item.excess["tokens_per_s"] == pytest.approx(1)
        assert item.excess["peak_memory_bytes"] == pytest.approx(0, abs=2)


def test_the_way_from_each_baseline_changes_one_switch_at_a_time(methods: OpenStudy) -> None:
    choice = limited(methods)
    assert choice.best is not None
    found = {way.baseline: way for way in ways(choice.cells, choice.references, choice.best)}
    assert set(found) == {"fp32", "16-bit"}
    for way in found.values():
        assert way.arrives
        for before, after in zip(way.stages, way.stages[1:], strict=False):
            changed = [k for k, v in before.cell.settings.items() if after.cell.settings[k] != v]
            assert changed == [after.switch]


def test_the_pareto_front_holds_what_nothing_beats(methods: OpenStudy) -> None:
    records = [cell.record for cell in limited(methods).cells if cell.completed]
    front = pareto_front(records)
    speeds = [record.metric("tokens_per_s") or 0 for record in front]
    assert speeds == sorted(speeds) and len(front) >= 3
    for record in records:
        beaten = any(
            (other.metric("tokens_per_s") or 0) >= (record.metric("tokens_per_s") or 0)
            and (other.metric("peak_memory_bytes") or 0) <= (record.metric("peak_memory_bytes") or 0)
            for other in front
        )
        assert beaten


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"peak_memory_gib": 0.3}, {"peak_memory_gib"}),
        ({"peak_memory_gib": 0.3, "eval_loss_within": 0.0}, {"peak_memory_gib"}),
    ],
)
def test_a_proposed_relaxation_makes_a_trial_best(
    methods: OpenStudy, limits: dict[str, float | None], expected: set[str]
) -> None:
    choice = limited(methods, **limits)
    assert choice.best is None
    (item,) = choice.relaxations
    assert set(item.limits) == expected
    relaxed = limited(methods, **(limits | item.limits))
    assert relaxed.best is not None and relaxed.best.record.number == item.record.number
    assert any("Relax constraint.peak_memory_gib from 0.3 to" in line for line in reasons(choice))


def test_constraints_are_relaxed_together_when_none_alone_helps(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"lora.r": ["8", "16"]})
    write_trial(study, 0, {"lora.r": "8"}, tokens_per_s=None, eval_loss=1.0)
    write_trial(study, 1, {"lora.r": "16"}, eval_loss=2.0)
    (item,) = limited(opened(study), peak_memory_gib=0.5, eval_loss_within=0.05).relaxations
    assert set(item.limits) == {"peak_memory_gib", "eval_loss_within"}
    assert item.record.number == 1


def test_repeats_of_a_cell_count_as_one_with_their_mean_and_interval(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"lora.r": ["8", "16"]})
    for number, speed in enumerate((100.0, 110.0, 120.0)):
        write_trial(study, number, {"lora.r": "8"}, tokens_per_s=speed)
    write_trial(study, 3, {"lora.r": "16"}, tokens_per_s=115.0)
    choice = limited(opened(study), eval_loss_within=None)
    assert [trial.record.number for trial in choice.ranking.trials] == [0, 3], "trial 3 needs more memory"
    cell = choice.cells[0]
    assert cell.record.metric("tokens_per_s") == 110 and len(cell.completed) == 3
    found = interval(cell, "tokens_per_s")
    assert found is not None and found.source == "repeats"
    # t(0.975, 2) = 4.3027, standard deviation 10
    assert found.high - 110 == pytest.approx(4.3027 * 10 / 3**0.5, rel=1e-4)
    assert choice.next_best is not None and choice.next_best.in_noise


def test_a_failed_repeat_does_not_hide_the_completed_one(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"lora.r": ["8"]})
    write_trial(study, 0, {"lora.r": "8"}, Outcome.CRASHED, "it died")
    write_trial(study, 1, {"lora.r": "8"})
    (cell,) = limited(opened(study)).cells
    assert cell.record.number == 1 and len(cell.trials) == 2


def test_switches_that_a_cell_left_unsaid_are_read_from_its_configuration(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"optim": ["adamw", "bnb8"], "lora.r": ["8", "16"]})
    write_trial(study, 0, {"optim": "bnb8"})
    write_trial(study, 1, {"optim": "bnb8", "lora.r": "16"})
    write_trial(study, 2, {"lora.r": "16"})
    settings = [cell.settings for cell in cells(study.read_trials())]
    assert settings[0] == {"lora.r": "8", "optim": "bnb8"}
    assert settings[2] == {"lora.r": "16", "optim": "adamw_torch"}


def test_trials_of_another_question_in_the_same_folder_are_left_out(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"lora.r": ["8", "16"]})
    write_trial(study, 0, {"lora.r": "8"})
    other = write_study(tmp_path / "s", {"lora.r": ["8", "16"]}, data={"max_length": 64})
    assert opened(other).choice.cells == ()


def test_the_batch_that_follows_from_a_swept_one_does_not_make_cells_incomparable(tmp_path: Path) -> None:
    study = write_study(
        tmp_path / "s", {"batch.micro": ["1", "4"]}, batch={"effective": 16, "accumulation": 4}
    )
    for number, micro in enumerate((1, 4)):
        write_trial(study, number, {"batch.micro": str(micro), "batch.accumulation": str(16 // micro),
                                    "batch.effective": "16"})  # fmt: skip
    assert len(opened(study).choice.cells) == 2


def test_every_cell_has_one_place_in_either_ranking(methods: OpenStudy) -> None:
    by_trial = rank(methods.trials, methods.rule)
    by_cell = methods.choice.ranking
    assert {t.record.number: t.rank is None for t in by_trial.trials} == {
        t.record.number: t.rank is None for t in by_cell.trials
    }


def test_a_tie_within_the_noise_goes_to_the_second_criterion_and_is_said(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"lora.r": ["8", "16", "32"]})
    write_trial(study, 0, {"lora.r": "8"}, tokens_per_s=995.0, peak_memory_bytes=900, eval_loss=2.0)
    write_trial(study, 1, {"lora.r": "16"}, tokens_per_s=1000.0, peak_memory_bytes=1000, eval_loss=1.9)
    write_trial(study, 2, {"lora.r": "32"}, tokens_per_s=500.0, peak_memory_bytes=100, eval_loss=2.0)
    choice = limited(opened(study), eval_loss_within=None)
    assert choice.best is not None and choice.best.record.number == 0
    assert [trial.record.number for trial in choice.ranking.trials] == [0, 1, 2]
    assert choice.ranking.trials[0].remark == "trial 1 within its noise: lowest peak_memory_bytes decides"
    said = " ".join(reasons(choice))
    assert "995 tokens/s, within the noise of trial 1 with 1,000 tokens/s, the highest" in said
    assert "Take them as equally good" in said
    config = dataclasses.replace(
        opened(study).config, objective=ObjectiveConfig(maximize="tokens_per_s", minimize="eval_loss")
    )
    second = OpenStudy(study, opened(study).record, config)
    assert second.choice.best is not None and second.choice.best.record.number == 1


def test_a_baseline_without_a_loss_leaves_nothing_eligible_and_is_named(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"lora.r": ["8", "16"]})
    write_trial(study, 0, {"lora.r": "8"}, Outcome.CRASHED, "it died")
    write_trial(study, 1, {"lora.r": "16"})
    choice = limited(opened(study), baseline="lora.r=8")
    assert choice.best is None
    assert "the baseline lora.r=8 has no evaluation loss to compare with (crashed)" in reasons(choice)[-1]
    assert "not measured yet" in reasons(limited(opened(study), baseline="lora.r=4"))[-1]
    assert limited(opened(study), baseline="lora.r=4", eval_loss_within=None).best is not None


@pytest.mark.parametrize(
    ("limits", "name", "typed"),
    [
        ({"tokens_per_s": 9000.0}, "tokens_per_s", "constraint.tokens_per_s="),
        ({"at_most": ("eval_loss:1", "tokens:1e9")}, "at_most[eval_loss]", "constraint.at_most=[eval_loss:"),
        ({"at_least": ("cost_per_million_tokens:9",)}, None, ""),
    ],
)
def test_every_limit_that_keeps_all_out_can_be_relaxed(
    methods: OpenStudy, limits: dict[str, Any], name: str | None, typed: str
) -> None:
    choice = limited(methods, **limits)
    assert choice.best is None
    if name is None:
        assert not choice.relaxations, "it was not measured"
        return
    (item,) = choice.relaxations
    assert list(item.limits) == [name] and item.overrides()[0].startswith(typed)
    value = item.overrides()[0].partition("=")[2]
    entries = tuple(value.strip("[]").split(",")) if "[" in value else float(value)
    relaxed = limited(methods, **{name.partition("[")[0]: entries})
    assert relaxed.best is not None and relaxed.best.record.number == item.record.number


def test_a_limit_is_rounded_to_the_side_that_lets_the_trial_in() -> None:
    assert [rounded(value, up=True) for value in (1.2345, -1.2345, 0)] == [1.24, -1.23, 0]
    assert [rounded(value, up=False) for value in (1234.5, -1.2345)] == [1230, -1.24]


def test_a_study_without_an_ended_trial_has_no_best_and_says_so(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"lora.r": ["8"]})
    write_trial(study, 0, {"lora.r": "8"}, outcome=None)
    choice = opened(study).choice
    assert choice.best is None and reasons(choice) == ["No trial has ended yet."]


def test_a_study_in_which_everything_failed_says_that_no_limit_is_to_blame(tmp_path: Path) -> None:
    study: StudyFolder = write_study(tmp_path / "s", METHODS)
    for number, overrides in enumerate(list(grid(METHODS))[:3]):
        write_trial(study, number, overrides, Outcome.OUT_OF_MEMORY, "did not fit")
    choice = opened(study).choice
    assert choice.best is None and not choice.relaxations
    assert "No limit keeps them out" in reasons(choice)[-1]
    assert measured({}).tokens_per_s


def test_a_limit_on_any_metric_that_keeps_all_out_is_named(methods: OpenStudy) -> None:
    choice = limited(methods, at_least=("exact_match:0.5",))
    assert choice.best is None and "exact_match was not measured" in reasons(choice)[-1]
