"""Optuna's stored study says what happened, also after it was lost; budgets count what was spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeper.contract.config import Config
from sweeper.contract.study_config import BudgetConfig, ConstraintConfig, ObjectiveConfig
from sweeper.contract.trial import Outcome
from sweeper.ranking.rule import Rule
from sweeper.scheduler.budget import Budget
from sweeper.scheduler.ledger import OptunaStudy
from sweeper.space.dimensions import Choices
from sweeper.study.records import TrialRecord
from tests.support.recorded import record_of
from tests.support.stores import empty_ledger

SWEPT = {"lora.r": Choices(("8", "16"))}
LIMITED = ConstraintConfig(at_most=("forgetting:0.1",), at_least=("exact_match:0.5",))


def ledger(folder: Path) -> tuple[OptunaStudy, optuna.Study]:
    storage = f"sqlite:///{empty_ledger(folder)}"
    ours = OptunaStudy("study", storage, Rule.of(ObjectiveConfig(maximize="tokens_per_s"), LIMITED))
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
    ours.catch_up(records, SWEPT, 3.0, highest=4)
    ours.catch_up(records, SWEPT, 3.0, highest=4)
    assert [item.state.name for item in theirs.trials] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE", "FAIL"]
    assert [item.params for item in theirs.trials] == [{"lora.r": "8"}, {}, {}, {"lora.r": "16"}, {}]
    assert theirs.trials[1].user_attrs["lora.r"] == "4", "a baseline outside of the space"
    assert ours.ask({"lora.r": "16"}, SWEPT, "key") == 5
    assert theirs.metric_names == ["tokens_per_s"]
    kept = theirs.trials[0].constraints
    assert kept["at_most.forgetting"] == pytest.approx(0.2)
    assert kept["at_least.exact_match"] == pytest.approx(-0.1)
    assert theirs.trials[3].constraints["eval_loss_within"] == pytest.approx(3.3 - 3.0 * 1.05)


def test_a_cancelled_trial_costs_time_but_no_trial_of_the_budget() -> None:
    budget = Budget(BudgetConfig(trials=2))
    for outcome in (Outcome.CANCELLED, Outcome.COMPLETED, Outcome.PREDICTED_OOM):
        budget.hear(trial(0, "8", outcome, total_time_s=5.0))
    assert (budget.trials, budget.device_s) == (1, 10.0)
    assert budget.used_up(0) is None and budget.used_up(1) == "budget.trials=2"
