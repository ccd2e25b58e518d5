"""The study's folder and the records in it: what was asked, what happened.

studies/<study>/study.json         what was asked
                optuna.db          the Optuna study
                ledger.json        how far it is
                tracking.json      which MLflow run holds which trial
                ranking.json, .md  the verdict, when the study has ended
                report.html, .md   the same with its figures
                decisions.json     what the strategy decided, and why
                trials/0007/       one trial (see `sweeper.contract.TrialFolder`)
                production/3f2a…/  one production run, which is a folder of the same kind
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import DERIVED, METRICS
from sweeper.contract.trial import TrialProgress, TrialResult, TrialSpec


@dataclass(frozen=True)
class StudyRecord:
    """What a study was asked to find out: `study.json`."""

    name: str
    created_at: str
    """UTC, ISO 8601."""
    command: str
    """The command line as typed, secrets masked."""
    overrides: tuple[str, ...]
    """Overrides that hold for every cell."""
    swept: dict[str, list[str]]
    """Swept key -> the values that were asked for, as typed."""
    config: dict[str, Any]
    """The resolved configuration without the swept overrides, secrets masked."""
    generation: int = 1
    """Counts up with every `study.fresh=true`."""
    sweeper_version: str | None = None
    identities: list[dict[str, Any]] = field(default_factory=list)
    """What the last run found its cells to rest on beside their options, each once, as `TrialSpec.identity`;
    the run adds what it finds later. Empty in records of versions that did not record it."""
    flags: tuple[str, ...] = ()
    """Hydra's flags that say where options lie, as typed: `--config-dir=…`, `--config-name=…`."""
    touched: tuple[str, ...] = ()
    """Options that are not swept by name, but set by the choices of a swept group."""
    cells: int | None = None
    """Cells that were asked for; None when the strategy decides as it goes."""


def count_unrecorded_cells(study: Mapping[str, Any]) -> int | None:
    """The size of the grid of a study whose record (as plain types) is older than `StudyRecord.cells`."""
    config = study["config"]
    decides = config.get("strategy", "auto") not in ("auto", "grid")
    proposes = (config.get("search") or {}).get("n_trials") is not None
    is_range = any("(" in str(value) for values in study["swept"].values() for value in values)
    if decides or proposes or is_range:
        return None
    return math.prod(len(values) for values in study["swept"].values())


@dataclass(frozen=True)
class TrialRecord:
    """One trial as it lies in its folder: spec, result and progress."""

    spec: TrialSpec
    result: TrialResult | None
    """None while the trial runs, or when it was cut off."""
    folder: TrialFolder
    progress: list[TrialProgress] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.spec.number

    @property
    def is_settled(self) -> bool:
        """Whether it has a result that lasts: one that was cancelled runs again."""
        return self.result is not None and self.result.outcome.is_final

    @property
    def label(self) -> str:
        """The cell as the user would type it, e.g. `lora.r=8 optim=adamw`."""
        return " ".join(f"{key}={value}" for key, value in self.spec.overrides.items()) or "single"

    @property
    def is_probe(self) -> bool:
        """Whether only speed and memory were looked at (`fidelity=probe+train`)."""
        return self.spec.config.get("trial", {}).get("probe_steps") is not None

    def metric(self, name: str) -> float | None:
        """A measurement or a figure derived from some, by its name in METRICS; None when not measured."""
        if name not in METRICS:
            raise ValueError(f"a metric must be one of METRICS, but got {name!r}")
        if self.result is None:
            return None
        if (derive := METRICS[name].derive) is not None:
            return derive(self.result.measurements, self.spec.config)
        value: float | None = getattr(self.result.measurements, name)
        return value

    def derived(self) -> dict[str, float | None]:
        """Every figure of DERIVED."""
        return {name: self.metric(name) for name in DERIVED}


class Lean:
    """Makes records share what they have in common."""

    def __init__(self) -> None:
        self._shared: TrialResult | None = None
        self._sections: dict[str, object] = {}

    def of(self, record: TrialRecord) -> TrialRecord:
        """The same record, without its lines of progress."""
        result, last = record.result, self._shared
        if result is None:
            return record
        if last is not None:
            same = {
                name: getattr(last, name)
                for name in ("environment", "definitions", "active")
                if getattr(last, name) == getattr(result, name)
            }
            result = replace(result, **same)
        self._shared = result
        config = dict(record.spec.config)
        for name, section in config.items():
            if self._sections.setdefault(name, section) == section:
                config[name] = self._sections[name]
        return replace(record, spec=replace(record.spec, config=config), result=result, progress=[])


NOT_OF_ONE_TRIAL = (
    "study.name=", "study.fresh=", "strategy=", "fidelity=", "pruner=", "slots=", "space=", "space.",
    "search.", "budget.", "repeats.",
)  # fmt: skip
"""Overrides that mean nothing to a single trial."""


def reproduction(study: StudyRecord, trial: TrialRecord) -> str:
    """The command, as one types it; what names or renews the study is left out."""
    own = [f"{key}={value}" for key, value in trial.spec.overrides.items()]
    swept = {f"{key}=" for key in trial.spec.overrides}
    fixed = [item for item in study.overrides if not item.startswith((*NOT_OF_ONE_TRIAL, *swept))]
    return shlex.join(["python", "-m", "sweeper", *study.flags, *fixed, *own])
