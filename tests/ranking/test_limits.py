"""Limits on measured metrics decide which trials may be best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import Measurements
from sweeper.contract.study_config import ConstraintConfig, ObjectiveConfig
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from sweeper.ranking.ranking import rank
from sweeper.ranking.rule import Rule, check
from sweeper.study.records import TrialRecord
from tests.support.commands import sweeper


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
    assert [problem.value for problem in check(wrong)] == ["forgeting:1", "forgetting:much", "exact_match"]


def test_a_limit_on_what_is_not_measured_is_refused(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "-m", "lora.r=4,8", "constraint.at_most=[hallucination_rate:0.1,forgeting:1]")
    assert done.returncode == 2
    assert "needs evaluate.generate, but evaluate.generate is 0" in done.stderr
    assert "forgeting:1" in done.stderr and "2 mistakes" in done.stderr, "each mistake is told once"
