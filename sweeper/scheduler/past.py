"""The trials of earlier runs, as this run finds them."""

from __future__ import annotations

from dataclasses import replace

from sweeper.contract.stamps import now
from sweeper.contract.trial import Outcome, TrialResult
from sweeper.scheduler.running import told
from sweeper.study.folder import StudyFolder
from sweeper.study.records import TrialRecord


def read_past(folder: StudyFolder, generation: int, progress: bool) -> list[TrialRecord]:
    """The trials of a generation in the order of their numbers, with their lines of progress if asked for.

    One whose driver died gets its result here, in every generation.
    """
    trials = [_with_result(trial) for trial in folder.read_trials(progress)]
    return [trial for trial in trials if trial.spec.generation == generation]


def _with_result(trial: TrialRecord) -> TrialRecord:
    if trial.result is not None:
        return trial
    cut_off = TrialResult(Outcome.CANCELLED, "the driver died before the trial ended", ended_at=now())
    warmup_steps = int(trial.spec.config["trial"]["warmup_steps"])
    cut_off = told(cut_off, trial.folder.read_progress(), warmup_steps)
    trial.folder.write_result(cut_off)
    return replace(trial, result=cut_off)
