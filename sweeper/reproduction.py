"""The command that runs a trial's cell again on its own."""

from __future__ import annotations

import shlex

from sweeper.records import StudyRecord, TrialRecord

NOT_OF_ONE_TRIAL = (
    "study.name=", "study.fresh=", "strategy=", "fidelity=", "pruner=", "slots=", "space=", "space.",
    "search.", "budget.", "repeats.",
)  # fmt: skip
"""Overrides that mean nothing to a single trial."""


def reproduction(study: StudyRecord, trial: TrialRecord) -> str:
    """The command, as one types it; what names or renews the study is left out."""
    own = [f"{key}={value}" for key, value in trial.spec.overrides.items()]
    fixed = [item for item in study.overrides if not item.startswith(NOT_OF_ONE_TRIAL)]
    return " ".join(["python -m sweeper", *(shlex.quote(item) for item in [*fixed, *own])])
