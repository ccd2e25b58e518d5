"""Which trials are ended early, and that the best one never is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sweeper.config.cell import Cell
from sweeper.contract.config import Config, TrialConfig
from sweeper.contract.folder import TrialFolder
from sweeper.contract.json_files import read_json
from sweeper.contract.study_config import ConstraintConfig, ObjectiveConfig
from sweeper.contract.trial import Outcome, TrialProgress, TrialResult, TrialSpec
from sweeper.launchers.recorded import RecordedJob, Recording
from sweeper.preflight.slots import Slot
from sweeper.scheduler.pruning import Pruning
from sweeper.scheduler.running import GRACE_PAUSES, STOP_GRACE_S, Running
from sweeper.strategies.base import Proposal
from sweeper.study.records import TrialRecord
from tests.support.recorded import lines_of, record_of

TRIAL = TrialConfig(warmup_steps=0)
ASKED = Config(trial=TRIAL, pruner="median", objective=ObjectiveConfig(maximize="tokens_per_s"))
FALLING = {0: 5.0, 2: 4.5, 4: 4.0, 6: 3.5}
"""Evaluation losses by step."""
POOR = {step: loss + 1 for step, loss in FALLING.items()}


def asked(**constraint: object) -> Config:
    return dataclasses.replace(ASKED, constraint=ConstraintConfig(**constraint))  # type: ignore[arg-type]


def watched(
    pruning: Pruning, number: int, lines: list[TrialProgress], stays_eligible: bool, is_baseline: bool = False
) -> str | None:
    """Why a trial with these lines would have been ended; it is heard to its end."""
    pruning.begin(number, ASKED, is_baseline)
    said = [pruning.hear(number, line) for line in lines]
    pruning.end(record_of(number, ASKED, tokens_per_s=1000.0, eval_loss=3.0), stays_eligible)
    return next(filter(None, said), None)


def test_a_slow_trial_goes_on_while_its_loss_could_disqualify_the_fast_one() -> None:
    """1000 tokens/s at loss 4, then 900 at loss 3: the second is the best under `eval_loss_within`."""
    pruning = Pruning(asked())
    watched(pruning, 0, lines_of(1000, {}), stays_eligible=False)
    assert watched(pruning, 1, lines_of(900, {}), stays_eligible=False) is None


def test_a_trial_slower_than_one_that_stays_eligible_is_hopeless() -> None:
    pruning = Pruning(asked(eval_loss_within=None, peak_memory_gib=1))
    watched(pruning, 0, lines_of(1000, {}), stays_eligible=True)
    assert "hopeless" in (watched(pruning, 1, lines_of(900, {}), stays_eligible=True) or "")
    assert watched(pruning, 2, lines_of(1100, {}), stays_eligible=True) is None


def test_a_trial_below_the_lowest_allowed_speed_is_hopeless() -> None:
    pruning = Pruning(asked(tokens_per_s=950))
    assert "950 are needed" in (watched(pruning, 0, lines_of(900, {}), stays_eligible=False) or "")


def filled(pruning: Pruning, replayed: bool) -> Pruning:
    """After four trials whose losses fall to 3.5, run now or by an earlier driver."""
    for number in range(4):
        lines = lines_of(1000, FALLING)
        if replayed:
            record = record_of(number, ASKED, tokens_per_s=1000.0, eval_loss=3.0)
            pruning.replay(dataclasses.replace(record, progress=lines), stays_eligible=False)
        else:
            watched(pruning, number, lines, stays_eligible=False)
    return pruning


@pytest.mark.parametrize("replayed", [False, True], ids=["in one run", "resumed"])
def test_a_trial_that_falls_behind_at_equal_tokens_is_ended(replayed: bool) -> None:
    pruning = filled(Pruning(asked()), replayed)
    assert "behind: evaluation loss 5.5000 at 200 tokens" in (
        watched(pruning, 9, lines_of(1000, POOR), stays_eligible=False) or ""
    )
    assert watched(pruning, 10, lines_of(1000, FALLING), stays_eligible=False) is None


def test_a_cell_that_never_ran_is_not_replayed() -> None:
    pruning = Pruning(asked())
    pruning.replay(record_of(0, ASKED, outcome=Outcome.PREDICTED_OOM), stays_eligible=False)
    assert "behind" in (watched(filled(pruning, replayed=True), 9, lines_of(1000, POOR), False) or "")


def test_falling_behind_is_held_against_the_baseline_where_one_is_named() -> None:
    pruning = Pruning(asked(baseline="lora.r=4"))
    poorer = {step: loss + 1 for step, loss in POOR.items()}
    watched(pruning, 20, lines_of(1000, poorer), stays_eligible=False, is_baseline=True)
    filled(pruning, replayed=False)
    assert watched(pruning, 9, lines_of(1000, POOR), stays_eligible=False) is None, "better than the baseline"


def running(path: Path, lines: list[TrialProgress], *proposals: Proposal) -> Running:
    """A trial that wrote these lines and has no result."""
    cell = Cell({}, ASKED)
    folder = TrialFolder(path / "0000")
    spec = TrialSpec("study", 0, "key", ASKED.to_dict())
    folder.write_spec(spec)
    folder.progress.write_text("".join(json.dumps(line.to_json()) + "\n" for line in lines))
    job = RecordedJob(folder, Recording(TrialResult(Outcome.COMPLETED)), 0.0)
    record = TrialRecord(spec, None, folder)
    trial = Running(record, job, Slot(0), list(proposals) or [Proposal(cell)], None)
    assert list(trial.lines()) == lines
    return trial


def test_a_pruned_trial_keeps_what_its_lines_tell(tmp_path: Path) -> None:
    trial = running(tmp_path, lines_of(1000, FALLING, steps=5))
    trial.stop(Outcome.PRUNED, "behind")
    trial.job.kill()
    result = trial.result()
    measured = result.measurements
    assert result.outcome is Outcome.PRUNED and result.reason == "behind"
    assert measured.tokens_per_s == pytest.approx(1000) and (measured.steps, measured.tokens) == (5, 500)
    assert measured.eval_loss is None and measured.eval_loss_before == 5.0
    assert trial.folder.read_result() == result


def test_a_trial_has_its_own_pace_to_end_in(tmp_path: Path) -> None:
    quick, slow = running(tmp_path / "a", lines_of(1000, {})), running(tmp_path / "b", lines_of(1, {}))
    assert quick.grace_s == STOP_GRACE_S
    assert slow.grace_s == pytest.approx(GRACE_PAUSES * 100)


def test_a_trial_that_has_trained_in_full_is_not_pruned(tmp_path: Path) -> None:
    whole = lines_of(1000, {})
    assert not running(tmp_path / "a", whole).is_prunable
    assert running(tmp_path / "b", whole[:-1]).is_prunable


def test_what_others_are_held_against_is_not_pruned(tmp_path: Path) -> None:
    cell = Cell({}, ASKED)
    steps = lines_of(1000, {})[:3]
    assert not running(
        tmp_path, steps, Proposal(cell), Proposal(cell, "repeat", 1, prunable=False)
    ).is_prunable


def test_a_trial_that_the_driver_killed_was_cancelled_and_one_that_died_crashed(tmp_path: Path) -> None:
    killed, died = running(tmp_path / "a", lines_of(1000, {})[:3]), running(tmp_path / "b", [])
    killed.cancel()
    assert killed.result().outcome is Outcome.CANCELLED
    assert killed.result().measurements.total_time_s == pytest.approx(0.3)
    died.job.kill()
    died.cancel()
    assert died.result().outcome is Outcome.CRASHED
    assert read_json(died.folder.result)["outcome"] == "crashed"
