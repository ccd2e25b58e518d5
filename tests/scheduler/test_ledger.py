"""Optuna's stored study says what happened, also after it was lost; budgets count what was spent."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeper.contract.config import Config
from sweeper.contract.study_config import BudgetConfig, ConstraintConfig, ObjectiveConfig
from sweeper.contract.trial import Outcome
from sweeper.launchers.recorded import RecordedJob, RecordedLauncher
from sweeper.ranking.rule import Rule
from sweeper.scheduler.budget import Budget
from sweeper.scheduler.ledger import StorageError
from sweeper.scheduler.optuna_study import OptunaStudy
from sweeper.space.dimensions import Choices
from sweeper.study.records import TrialRecord
from tests.support.recorded import answer, play, record_of
from tests.support.stores import empty_ledger

SWEPT = {"lora.r": Choices(("8", "16"))}
LIMITED = ConstraintConfig(at_most=("forgetting:0.1",), at_least=("exact_match:0.5",))


def ledger(folder: Path) -> tuple[OptunaStudy, optuna.Study]:
    storage = f"sqlite:///{empty_ledger(folder)}"
    ours = OptunaStudy("study", storage, Rule.of(ObjectiveConfig(maximize="tokens_per_s"), LIMITED), SWEPT)
    return ours, optuna.load_study(study_name="study", storage=storage)


def trial(number: int, rank: str, outcome: Outcome = Outcome.COMPLETED, **measured: Any) -> TrialRecord:
    return record_of(number, Config(), {"lora.r": rank}, outcome, **measured)


def test_a_storage_that_was_lost_is_filled_from_the_folders(tmp_path: Path) -> None:
    ours, theirs = ledger(tmp_path)
    records = {
        0: trial(0, "8", tokens_per_s=10.0, eval_loss=3.0, forgetting=0.3, exact_match=0.6),
        1: trial(1, "4", Outcome.OUT_OF_MEMORY),
        3: trial(3, "16", tokens_per_s=12.0, eval_loss=3.3),
    }
    ours.catch_up(records, 3.0, highest=4)
    ours.catch_up(records, 3.0, highest=4)
    assert [item.state.name for item in theirs.trials] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE", "FAIL"]
    assert [item.params for item in theirs.trials] == [{"lora.r": "8"}, {}, {}, {"lora.r": "16"}, {}]
    assert theirs.trials[1].user_attrs["lora.r"] == "4", "a baseline outside of the space"
    assert ours.count == 5
    assert theirs.metric_names == ["tokens_per_s"]
    kept = theirs.trials[0].constraints
    assert kept["at_most.forgetting"] == pytest.approx(0.2)
    assert kept["at_least.exact_match"] == pytest.approx(-0.1)
    assert theirs.trials[3].constraints["eval_loss_within"] == pytest.approx(3.3 - 3.0 * 1.05)


def test_a_cancelled_trial_costs_time_but_no_trial_of_the_budget() -> None:
    budget = Budget(BudgetConfig(trials=2))
    for outcome in (Outcome.CANCELLED, Outcome.COMPLETED, Outcome.PREDICTED_OOM):
        budget.on_end(trial(0, "8", outcome, total_time_s=5.0))
    assert (budget.trials, budget.device_s) == (1, 10.0)
    assert budget.used_up(0) is None and budget.used_up(1) == "budget.trials=2"


def test_a_trial_is_held_as_it_begins_and_as_it_ends(tmp_path: Path) -> None:
    ours, theirs = ledger(tmp_path)
    ended = trial(1, "8", tokens_per_s=10.0, eval_loss=3.0)
    for _ in range(2):
        ours.hold(dataclasses.replace(ended, result=None), None)
    assert [item.state.name for item in theirs.trials] == ["FAIL", "RUNNING"], "0 has no folder"
    ours.hold(ended, 3.0)
    ours.hold(ended, 3.0)
    ours.hold(trial(2, "16", Outcome.PREDICTED_OOM), 3.0)
    assert [item.state.name for item in theirs.trials] == ["FAIL", "COMPLETE", "PRUNED"]
    assert theirs.trials[1].user_attrs["sweeper.outcome"] == "completed"


@dataclasses.dataclass
class Meddling(RecordedLauncher):
    """Deletes Optuna's database when the third trial begins."""

    database: Path = Path()

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> RecordedJob:
        if verb == "trial" and self.started == 2:
            self.database.unlink()
        return super().submit(verb, folder, stdout, stderr)


def test_a_study_goes_on_when_its_storage_is_lost_and_fills_it_again(tmp_path: Path) -> None:
    database = tmp_path / "optuna.db"
    played = play(tmp_path, "lora.r=8,16,32,64", launcher=Meddling(answer, database=database))
    assert played.verdict.ran == 4
    assert sum("Optuna's storage failed" in line for line in played.lines) == 1
    assert [item.state.name for item in trials_in(database)] == ["COMPLETE"] * 4


def test_a_storage_that_nobody_wrote_to_is_not_opened_again(tmp_path: Path) -> None:
    play(tmp_path, "lora.r=8,16")
    database = tmp_path / "optuna.db"
    stat, content = database.stat(), database.read_bytes()
    database.write_bytes(b"X" * len(content))
    os.utime(database, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert play(tmp_path, "lora.r=8,16").verdict.ran == 0, "it would not open"
    database.unlink()
    play(tmp_path, "lora.r=8,16")
    assert [item.state.name for item in trials_in(database)] == ["COMPLETE"] * 2


def test_a_storage_that_never_answered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="must be an Optuna storage that answers"):
        play(tmp_path, f"study.storage=sqlite:///{tmp_path}/none/optuna.db")


def trials_in(database: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{database}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials
