"""What the strategies ask for, and why: each is driven by itself, its proposals answered by a small model."""

from __future__ import annotations

import dataclasses

import pytest

from sweeper.config.hydra import initialized_hydra
from sweeper.contract.config import Config
from sweeper.contract.measurements import Measurements
from sweeper.contract.scopes import loss_key
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from sweeper.launchers.recorded import Recording
from sweeper.machine import machine
from sweeper.space.expand import expand
from sweeper.strategies.base import Proposal, Question
from sweeper.strategies.finalists import finalists
from tests.support.recorded import answer, driven, proposed

PAPER = ("strategy=paper", "batch.micro=1,2,4", "batch.effective=16,32", "evaluate.general=0")


def stages(question: Question) -> list[str]:
    return [record.spec.stage for record in question.records]


def said(question: Question, stage: str) -> list[str]:
    return [item["text"] for item in question.decisions if item["stage"] == stage]


def effects(question: Question) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = question.decisions[-1]["effects"]
    return rows


def without_room(*needed: tuple[str, object]) -> object:
    """Answers of a machine in which only cells with all of these settings fit."""

    def answers(spec: TrialSpec) -> Recording:
        if all(spec.config[name] == value for name, value in needed):
            return answer(spec)
        lost = Measurements(load_time_s=0.1, steps=0, total_time_s=0.5)
        return Recording(TrialResult(Outcome.OUT_OF_MEMORY, "no room", lost), 0.5)

    return answers


SEARCH = ("lora.r=8,16,32", "train.learning_rate=tag(log,interval(1e-4,1e-2))", "search.n_trials=14")
STUDIES = {
    "grid": ("lora.r=8,16", "batch.micro=1,2,4"),
    "search": SEARCH,
    "probe and train": ("strategy=joint", "search.n_trials=12", "fidelity=probe+train"),
    "paper": ("strategy=paper", "space=paper"),
    "finalists": ("batch.micro=1,2,4", "repeats.finalists=2", "repeats.runs=3"),
}


def asked_of(question: Question) -> list[tuple[str, str, int]]:
    """Stage, cell and repeat of the trials in their order."""
    return [(record.spec.stage, record.label, record.spec.repeat) for record in question.records]


@pytest.mark.parametrize("arguments", STUDIES.values(), ids=list(STUDIES))
def test_a_study_that_was_cut_off_anywhere_decides_as_one_that_was_not(arguments: tuple[str, ...]) -> None:
    with initialized_hydra():
        space = expand(arguments, "config", machine())
        whole = driven(space)
        begun = list({record.number: record for record in whole.records}.values())
        for cut in range(1, len(begun), 3):
            resumed = driven(space, earlier=begun[:cut])
            assert asked_of(resumed) == asked_of(whole), cut
            assert resumed.decisions == whole.decisions


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsgaii", "cmaes"])
def test_a_seeded_search_proposes_the_same_cells_twice(sampler: str) -> None:
    asked = (*SEARCH[:2], "search.n_trials=12", f"search.sampler={sampler}")
    once, twice = proposed(*asked), proposed(*asked)
    assert asked_of(once) == asked_of(twice)
    assert len({record.label for record in once.records}) == 12


def test_a_search_ends_with_its_space() -> None:
    assert len(proposed("lora.r=8,16", "batch.micro=1,2", "search.n_trials=50").records) == 4


def test_forbidden_pairs_are_never_proposed() -> None:
    pair = "space.never=['precision=bf16 optim=bnb8']"
    question = proposed("precision=fp32,bf16", "optim=adamw,bnb8", pair, "search.n_trials=9")
    labels = {record.label for record in question.records}
    assert len(labels) == 3 and "precision=bf16 optim=bnb8" not in labels


def test_the_paper_goes_through_its_stages_and_adds_up_what_they_bring() -> None:
    question = proposed(*STUDIES["paper"])
    stages = list(dict.fromkeys(item["stage"] for item in question.decisions))
    assert stages == ["1 batch", "1 effective batch", "2 methods", "3 batch again", "summary"]
    assert "out_of_memory" in said(question, "1 batch")[0]
    rows = question.decisions[-1]["effects"]
    assert rows[0]["added"] == "baseline" and rows[0]["memory_vs_fp32"] == 1.0
    assert {"adapter=lora", "precision=bf16"} <= {row["added"] for row in rows}
    assert rows[-1]["speed_vs_fp32"] > rows[-1]["speed_vs_16bit"] > 1


def test_finalists_are_measured_in_turns() -> None:
    again = [(label, repeat) for _, label, repeat in asked_of(proposed(*STUDIES["finalists"])) if repeat]
    assert again == [("batch.micro=4", 1), ("batch.micro=2", 1), ("batch.micro=4", 2), ("batch.micro=2", 2)]


def test_the_paper_starts_from_the_method_that_fits_where_the_baseline_does_not() -> None:
    asked = (*PAPER, "adapter=full,lora", "precision=fp32,bf16")
    question = proposed(*asked, answers=without_room(("adapter", "lora")))  # type: ignore[arg-type]
    assert "adapter=lora takes its place" in " ".join(said(question, "2 methods"))
    rows = effects(question)
    assert [row["added"] for row in rows] == ["adapter=lora", "precision=bf16", "batch.micro=4"]
    assert all(row["speed_vs_fp32"] is None for row in rows), "the plain cell was not measured"


def test_the_paper_adds_methods_until_they_fit_where_none_does_alone() -> None:
    asked = (*PAPER, "adapter=full,lora", "checkpointing=off,on", "precision=fp32,bf16")
    room = without_room(("adapter", "lora"), ("checkpointing", True))
    question = proposed(*asked, answers=room)  # type: ignore[arg-type]
    rows = effects(question)
    assert rows[0]["added"] == "adapter=lora checkpointing=on"
    assert "precision=bf16" in [row["added"] for row in rows]


def test_the_paper_measures_no_precision_that_is_not_swept_and_names_no_false_baseline() -> None:
    question = proposed(*PAPER, "precision=bf16,bf16_pure")
    assert {record.spec.config["precision"] for record in question.records} == {"bf16", "bf16_pure"}
    assert effects(question)[0]["speed_vs_fp32"] is None and effects(question)[0]["speed_vs_16bit"] == 1


def test_the_paper_trains_every_cell_on_as_many_examples() -> None:
    question = proposed(*PAPER, "adapter=full,lora")
    assert {record.spec.config["batch"]["effective"] for record in question.records} == {16, 32}
    assert "batch.effective=32" in said(question, "1 effective batch")[0]
    for record in question.records:
        batch, train = record.spec.config["batch"], record.spec.config["train"]
        assert batch["effective"] * train["steps"] == 16 * 20


def test_the_paper_keeps_a_batch_that_it_is_given() -> None:
    seen: list[Proposal] = []
    proposed("strategy=paper", "batch.micro=2", "batch.effective=16", "precision=fp32,bf16", seen=seen)
    batches = {(item.cell.config.batch.micro, item.cell.config.batch.effective) for item in seen}
    assert batches == {(2, 16)}


def test_the_paper_takes_the_smaller_micro_batch_of_two_that_are_as_fast() -> None:
    def flat(spec: TrialSpec) -> Recording:
        found = answer(spec)
        micro = spec.config["batch"]["micro"]
        measured = dataclasses.replace(found.result.measurements, tokens_per_s=1000 + micro)
        return dataclasses.replace(found, result=dataclasses.replace(found.result, measurements=measured))

    question = proposed(*PAPER, answers=flat, budget=3)
    assert said(question, "1 batch") == [] and stages(question) == ["1 batch"] * 3
    question = proposed(*PAPER, answers=flat, budget=4)
    assert "batch.micro=1," in said(question, "1 batch")[0]


def test_a_method_that_slows_down_to_save_memory_is_left_out() -> None:
    question = proposed(*PAPER, "checkpointing=off,on")
    assert any("checkpointing=on alone is left out" in text for text in said(question, "2 methods"))
    question = proposed(*PAPER, "checkpointing=off,on", "objective.minimize=peak_memory_bytes")
    assert any("checkpointing=on alone is good" in text for text in said(question, "2 methods"))


def test_a_loss_of_a_trial_that_did_not_complete_decides_no_effective_batch() -> None:
    def pruned(spec: TrialSpec) -> Recording:
        found = answer(spec)
        large = spec.config["batch"]["effective"] == 32
        outcome = Outcome.PRUNED if large else Outcome.COMPLETED
        return dataclasses.replace(found, result=dataclasses.replace(found.result, outcome=outcome))

    question = proposed(*PAPER, answers=pruned)
    assert "batch.effective=16" in said(question, "1 effective batch")[0]


def test_a_paper_study_that_a_budget_ends_says_what_it_has_found() -> None:
    question = proposed(*PAPER, "adapter=full,lora", "precision=fp32,bf16", budget=10)
    assert question.decisions[-1]["stage"] == "summary" and effects(question)[0]["added"] == "baseline"


def test_no_trial_that_others_are_held_against_may_be_pruned() -> None:
    seen: list[Proposal] = []
    question = proposed("lora.r=8,16", "repeats.finalists=1", "constraint.baseline='lora.r=4'", seen=seen)
    assert [proposal.prunable for proposal in seen] == [False, True, True, False, False]
    asked = [(record.spec.stage, record.spec.repeat) for record in question.records]
    assert asked == [("baseline", 0), ("", 0), ("", 0), ("finalists", 1), ("finalists", 2)]
    assert question.records[0].spec.overrides == {"lora.r": "4"}


def forgetful(spec: TrialSpec) -> Recording:
    """As `answer`, with a metric that a probe does not measure."""
    found = answer(spec)
    lost = None if spec.config["trial"]["probe_steps"] else 0.1
    measured = dataclasses.replace(found.result.measurements, forgetting=lost)
    return dataclasses.replace(found, result=dataclasses.replace(found.result, measurements=measured))


PROBED = ("batch.micro=1,2,4,8", "precision=fp32,bf16", "fidelity=probe+train")


def test_only_those_that_can_still_be_best_are_trained_whatever_a_probe_cannot_tell() -> None:
    question = proposed(*PROBED, "constraint.at_most=[forgetting:0.2]", answers=forgetful)
    assert stages(question).count("probe") == 8 and stages(question).count("train") < 6
    best = question.ranking().best
    assert best is not None and best.label == "batch.micro=8 precision=bf16" and not best.is_probe


def test_cells_that_train_as_one_that_broke_the_rule_are_not_even_probed() -> None:
    rates = "train.learning_rate=1e-5,3e-3"  # the first one's loss is 8% above the other's
    question = proposed("batch.micro=1,2,4,8", rates, "fidelity=probe+train")
    late = [record.label for record in question.records if record.spec.overrides["batch.micro"] in ("4", "8")]
    assert late and not any("1e-05" in label for label in late)
    best = question.ranking().best
    assert best is not None and best.label == "batch.micro=8 train.learning_rate=0.003"


def test_each_kind_of_training_is_tried_before_its_loss_is_taken_for_the_lowest() -> None:
    def answers(spec: TrialSpec) -> Recording:
        found = answer(spec)
        slow_and_good = spec.config["lora"]["r"] == 32 and not spec.config["trial"]["probe_steps"]
        better = dataclasses.replace(found.result.measurements, tokens_per_s=1.0, eval_loss=1.0)
        return Recording(dataclasses.replace(found.result, measurements=better)) if slow_and_good else found

    question = proposed("batch.micro=1,2,4,8", "lora.r=8,32", "fidelity=probe+train", answers=answers)
    best = question.ranking().best
    assert best is not None and best.metric("eval_loss") == 1.0, "as the whole grid would say"


def test_a_trainings_kind_is_what_decides_its_loss() -> None:
    plain = Config()
    for same in (
        dataclasses.replace(plain, checkpointing=True, attention="eager", trainer="hf"),
        dataclasses.replace(plain, optim="adamw_torch_fused"),
        dataclasses.replace(plain, trial=dataclasses.replace(plain.trial, probe_steps=8)),
    ):
        assert loss_key(same) == loss_key(plain)
    for other in (
        dataclasses.replace(plain, precision="bf16"),
        dataclasses.replace(plain, optim="adafactor"),
        dataclasses.replace(plain, lora=dataclasses.replace(plain.lora, r=16)),
    ):
        assert loss_key(other) != loss_key(plain)


def test_the_first_probe_that_is_possible_is_trained() -> None:
    question = proposed(*PROBED, answers=without_room(("precision", "bf16")))  # type: ignore[arg-type]
    first = next(record for record in question.records if record.spec.stage == "train")
    assert first.spec.config["precision"] == "bf16"
    assert all(
        record.result and record.result.outcome is Outcome.COMPLETED
        for record in question.records
        if record.spec.stage == "train"
    )


def test_as_many_contenders_are_trained_at_a_time_as_there_are_slots() -> None:
    missed = ("constraint.tokens_per_s=1", "constraint.at_most=[forgetting:0.01]")  # found out by training
    for slots in (1, 3):
        question = proposed(*PROBED, *missed, answers=forgetful, slots=slots)
        assert stages(question).count("train") == 8
        last = max(record.number for record in question.records if record.spec.stage == "probe")
        beside = [record for record in question.records if record.number > last and not record.spec.heard]
        assert bool(beside) == (slots > 1), "trainings that were begun before another one had ended"


def test_a_pareto_study_trains_and_names_its_front() -> None:
    both = ("objective.maximize=tokens_per_s", "objective.minimize=peak_memory_bytes")
    question = proposed(*PROBED, *both)
    trained = {record.label for record in question.records if record.spec.stage == "train"}
    front = {f"batch.micro={micro} precision=bf16" for micro in (1, 2, 4, 8)}
    assert front <= trained and len(trained) <= len(front) + 1
    named = question.records
    assert {named[number].label for number in question.decisions[-1]["trials"]} == front


def test_a_finalist_that_was_heard_of_twice_is_measured_once() -> None:
    question = proposed("lora.r=8,16", "repeats.finalists=2", budget=2)
    question.records.append(question.records[0])
    asked = finalists(question)
    first, second = next(asked), asked.send([])
    assert first is not None and second is not None
    assert {first.cell.label, second.cell.label} == {"lora.r=8", "lora.r=16"}
