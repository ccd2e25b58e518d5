"""What the strategies propose, and that an interrupted study goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.contract import Outcome
from sweeper.dimensions import written
from sweeper.records import TrialRecord
from sweeper.schema_search import SpaceConfig
from tests.recorded import interrupted, play

SEARCH = ("lora.r=8,16,32", "train.learning_rate=tag(log,interval(1e-4,1e-2))", "search.n_trials=14")
STUDIES = {
    "grid": ("lora.r=8,16", "batch.micro=1,2,4"),
    "search": SEARCH,
    "probe and train": ("strategy=joint", "search.n_trials=12", "fidelity=probe+train"),
    "paper": ("strategy=paper", "space=paper"),
    "finalists": ("batch.micro=1,2,4", "repeats.finalists=2", "repeats.runs=3"),
}


def outcome(record: TrialRecord) -> Outcome | None:
    return record.result.outcome if record.result else None


@pytest.mark.parametrize("arguments", STUDIES.values(), ids=list(STUDIES))
def test_an_interrupted_study_decides_as_one_that_was_not(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    whole = play(tmp_path / "whole", *arguments)
    for trials in (1, 5):
        interrupted(tmp_path / "cut", trials, *arguments)
    resumed = play(tmp_path / "cut", *arguments)
    assert resumed.settled() == whole.settled()
    assert resumed.verdict.ranking.best is not None and whole.verdict.ranking.best is not None
    assert resumed.verdict.ranking.best.label == whole.verdict.ranking.best.label


def test_a_finished_search_runs_nothing_again(tmp_path: Path) -> None:
    play(tmp_path, *SEARCH)
    again = play(tmp_path, *SEARCH)
    assert again.launcher.started == 0 and again.verdict.ran == 0


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsgaii"])
def test_a_seeded_search_proposes_the_same_cells_twice(tmp_path: Path, sampler: str) -> None:
    asked = (*SEARCH[:2], "search.n_trials=12", f"search.sampler={sampler}")
    once, twice = play(tmp_path / "a", *asked), play(tmp_path / "b", *asked)
    assert once.settled() == twice.settled()
    assert len({label for _, label, _ in once.settled()}) == 12


def test_a_search_ends_with_its_space(tmp_path: Path) -> None:
    played = play(tmp_path, "lora.r=8,16", "batch.micro=1,2", "search.n_trials=50")
    assert len(played.settled()) == 4


def test_the_paper_goes_through_its_stages_and_says_why(tmp_path: Path) -> None:
    played = play(tmp_path, *STUDIES["paper"])
    decisions = json.loads(played.verdict.folder.decisions.read_text())
    stages = list(dict.fromkeys(item["stage"] for item in decisions))
    assert stages == ["1 batch", "1 effective batch", "2 methods", "3 batch again", "summary"]
    assert any("out_of_memory" in line for line in played.lines if line.startswith("stage 1"))
    rows = decisions[-1]["effects"]
    assert rows[0]["added"] == "baseline" and rows[0]["memory_vs_fp32"] == 1.0
    assert {"adapter=lora", "precision=bf16"} <= {row["added"] for row in rows}
    assert rows[-1]["speed_vs_fp32"] > rows[-1]["speed_vs_16bit"] > 1


def test_only_those_that_can_still_be_best_are_trained(tmp_path: Path) -> None:
    played = play(tmp_path, "batch.micro=1,2,4,8", "precision=fp32,bf16", "fidelity=probe+train")
    stages = [stage for stage, _, _ in played.settled()]
    assert stages.count("probe") == 8 and stages.count("train") < 6
    best = played.verdict.ranking.best
    assert best is not None and best.label == "batch.micro=8 precision=bf16" and not best.is_probe


def test_finalists_are_measured_in_turns(tmp_path: Path) -> None:
    played = play(tmp_path, *STUDIES["finalists"])
    again = [(label, repeat) for _, label, repeat in played.settled() if repeat]
    assert again == [("batch.micro=4", 1), ("batch.micro=2", 1), ("batch.micro=4", 2), ("batch.micro=2", 2)]


def test_a_cell_that_needs_more_than_one_that_did_not_fit_is_skipped(tmp_path: Path) -> None:
    played = play(tmp_path, "lora.r=8,16", "batch.micro=1,16")
    skipped = [record for record in played.records if outcome(record) is Outcome.PREDICTED_OOM]
    assert [record.label for record in skipped] == ["batch.micro=16 lora.r=16"]
    assert skipped[0].result is not None and "trial 1 ran out" in (skipped[0].result.reason or "")


def test_a_budget_ends_the_study_and_more_of_it_goes_on(tmp_path: Path) -> None:
    first = play(tmp_path, "lora.r=8,16,32,64", "budget.trials=3")
    assert first.verdict.ran == 3 and "1 cells are left" in (first.verdict.left or "")
    second = play(tmp_path, "lora.r=8,16,32,64", "budget.trials=9")
    assert second.verdict.ran == 1 and second.verdict.left is None


def test_forbidden_pairs_are_never_proposed(tmp_path: Path) -> None:
    pair = "space.never=['precision=bf16 optim=bnb8']"
    played = play(tmp_path, "precision=fp32,bf16", "optim=adamw,bnb8", pair, "search.n_trials=9")
    labels = {label for _, label, _ in played.settled()}
    assert len(labels) == 3 and "optim=bnb8 precision=bf16" not in labels


def test_an_option_is_swept_only_when_its_condition_holds() -> None:
    asked = SpaceConfig(
        sweep={"lora.use_dora": "true,false"}, only_when={"lora.use_dora": "quantization=none"}
    )
    _, conditions, problems = written(asked)
    cell = {"quantization": "nf4", "lora.use_dora": "true"}
    assert not problems
    assert conditions.active(cell, {}) == {"quantization": "nf4"}
    assert conditions.active({**cell, "quantization": "none"}, {}) == {**cell, "quantization": "none"}
