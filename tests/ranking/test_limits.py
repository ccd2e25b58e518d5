"""Limits on measured metrics decide which trials may be best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import Measurements
from sweeper.contract.study_config import ConstraintConfig, ObjectiveConfig
from sweeper.contract.trial import GIB, Outcome, TrialResult, TrialSpec
from sweeper.ranking.constraint import check_limits
from sweeper.ranking.eligibility import violations
from sweeper.ranking.ranking import rank
from sweeper.ranking.rule import Rule
from sweeper.study.records import TrialRecord
from tests.support.commands import sweeper
from tests.support.recorded import record_of


def trial(number: int, **measured: Any) -> TrialRecord:
    spec = TrialSpec("study", number, str(number), {}, {"lora.r": str(number)})
    result = TrialResult(Outcome.COMPLETED, measurements=Measurements(eval_loss=1.0, **measured))
    return TrialRecord(spec, result, TrialFolder(Path()))


@pytest.mark.parametrize(
    ("constraint", "best"),
    [
        (ConstraintConfig(), 3),
        (ConstraintConfig(at_most=("forgetting:0.2",)), 2),
        (ConstraintConfig(at_most=("forgetting:0.2",), at_least=("exact_match:0.5",)), 1),
        (ConstraintConfig(at_least=("exact_match:0.9",)), None),
    ],
)
def test_the_best_keeps_every_limit(constraint: ConstraintConfig, best: int | None) -> None:
    trials = [
        trial(1, tokens_per_s=1, forgetting=0.1, exact_match=0.6),
        trial(2, tokens_per_s=2, forgetting=0.1, exact_match=0.2),
        trial(3, tokens_per_s=3, forgetting=0.5),
    ]
    ranking = rank(trials, Rule.of(ObjectiveConfig(), constraint))
    assert (ranking.best and ranking.best.number) == best
    for entry in (*constraint.at_most, *constraint.at_least):
        assert entry.partition(":")[0] in ranking.rule.sentence()
    said = {row.record.number: " ".join(row.violations) for row in ranking.trials}
    if constraint.at_most:
        assert "forgetting 0.5 > 0.2" in said[3]
    if constraint.at_least:
        assert "exact_match was not measured" in said[3]


def test_what_is_no_limit_is_named() -> None:
    wrong = ConstraintConfig(at_most=("forgeting:1", "forgetting:much"), at_least=("exact_match",))
    refused = [problem.value for problem in check_limits(wrong)]
    assert refused == ["forgeting:1", "forgetting:much", "exact_match"]


def test_a_limit_on_what_is_not_measured_is_refused(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "-m", "lora.r=4,8", "constraint.at_most=[hallucination_rate:0.1,forgeting:1]")
    assert done.returncode == 2
    assert "needs evaluate.generate, but evaluate.generate is 0" in done.stderr
    assert "forgeting:1" in done.stderr and "2 mistakes" in done.stderr, "each mistake is told once"


@pytest.mark.parametrize("sweep", [(), ("-m", "lora.r=4,8")], ids=["one trial", "a sweep"])
def test_an_option_that_several_metrics_need_is_one_mistake(tmp_path: Path, sweep: tuple[str, ...]) -> None:
    asked = ("constraint.at_most=[forgetting:0.1,general_loss:3]", "objective.minimize=forgetting")
    done = sweeper(tmp_path, *sweep, *asked, "evaluate.general=0")
    assert done.returncode == 2 and "1 mistake in" in done.stderr
    assert "forgetting and general_loss (objective.minimize, constraint.at_most)" in done.stderr
    assert done.stderr.count("evaluate.general is 0") == 1


CONSTRAINED = ConstraintConfig(
    peak_memory_gib=1.0,
    eval_loss_within=0.1,
    tokens_per_s=50.0,
    at_most=("forgetting:0.2",),
    at_least=("exact_match:0.5",),
)
BROKEN: dict[str, tuple[str, Any, float]] = {
    "eval_loss_within": ("eval_loss", 1.5, 0.5),
    "tokens_per_s": ("tokens_per_s", 40.0, 40.0),
    "peak_memory_gib": ("peak_memory_bytes", 3 * GIB // 2, 1.5),
    "at_most[forgetting]": ("forgetting", 0.5, 0.5),
    "at_least[exact_match]": ("exact_match", 0.25, 0.25),
}
"""Constraint -> its metric, a value that breaks it, and the limit that would let that value in."""
KEEPS: dict[str, Any] = {
    "eval_loss": 1.0,
    "tokens_per_s": 60.0,
    "peak_memory_bytes": GIB,
    "forgetting": 0.1,
    "exact_match": 0.5,
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_shape_of_a_constraint_says_the_same_of_a_trial(name: str) -> None:
    rule = Rule.of(ObjectiveConfig(), CONSTRAINED)
    assert [item.name for item in rule.constraints] == list(BROKEN)
    metric, value, needed = BROKEN[name]
    good, bad = record_of(1, Config(), **KEEPS), record_of(2, Config(), **{**KEEPS, metric: value})
    unmeasured = record_of(3, Config(), **{**KEEPS, metric: None})
    (constraint,) = [item for item in rule.with_reference(1.0).constraints if item.name == name]
    assert violations(good, rule, 1.0) == [] and (constraint.excess(good) or 0) <= 0
    assert violations(bad, rule, 1.0) == [constraint.violation(bad)] and (constraint.excess(bad) or 0) > 0
    assert violations(unmeasured, rule, 1.0)[-1].endswith("was not measured")
    assert constraint.excess(unmeasured) is None and constraint.needed(unmeasured) is None
    assert constraint.needed(bad) == pytest.approx(needed)
    assert violations(bad, rule.with_limits({name: needed}), 1.0) == []
    assert violations(bad, rule.with_limits({name: None}), 1.0) == []
    assert constraint.sentence() in rule.sentence()


def test_a_limit_on_costs_needs_the_price_of_the_device(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "-m", "lora.r=4,8", "constraint.at_most=[cost_per_million_tokens:1]")
    assert done.returncode == 2 and "1 mistake in" in done.stderr
    assert "hardware.price_per_hour is null: give hardware.price_per_hour=…" in done.stderr
