"""Trials -> cells: repeats of one combination belong together, and each cell knows its switches.

A *switch* is a swept key; its settings are written as the user typed them. Cells that were asked for at
different times may name different keys (a staged search does): whatever a cell left unsaid is read from
its resolved configuration, so that two cells differ in a switch exactly when their work does.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from sweeper.contract.measurements import Measurements
from sweeper.contract.scopes import ABOUT_THE_STUDY
from sweeper.contract.trial import Outcome
from sweeper.study.masking import mask_all
from sweeper.study.records import StudyRecord, TrialRecord

PROBE = "trial.probe_steps"
"""The option that is set where a trial looked at speed and memory only."""


@dataclass(frozen=True)
class MeasuredCell:
    """One combination with all of its settled trials."""

    trials: tuple[TrialRecord, ...]
    """Oldest first."""
    settings: dict[str, str]
    """Switch -> its setting in this cell, for every switch of the study."""

    @property
    def completed(self) -> tuple[TrialRecord, ...]:
        """Its completed trials; a probe counts only while the cell was not trained in full."""
        done = tuple(trial for trial in self.trials if _outcome(trial) is Outcome.COMPLETED)
        return tuple(trial for trial in done if not _is_probe(trial)) or done

    @property
    def record(self) -> TrialRecord:
        """The cell as one record: its only completed trial, the mean of several, or its last failure."""
        completed = self.completed
        if len(completed) > 1:
            return _mean(completed)
        return completed[0] if completed else self.trials[-1]

    @property
    def label(self) -> str:
        return self.record.label


def cells(records: Iterable[TrialRecord]) -> list[MeasuredCell]:
    """The settled trials grouped by the work that they did, in the order of their first trials."""
    settled = [record for record in records if (ended := _outcome(record)) and ended.is_final]
    groups: dict[str, list[TrialRecord]] = {}
    for record in settled:
        groups.setdefault(_work(record), []).append(record)
    read = _settings_reader(settled)
    return [MeasuredCell(tuple(trials), read(trials[0])) for trials in groups.values()]


def asked_again(study: StudyRecord, records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that answer what the study asks now.

    Left out are those of an earlier `study.fresh=true`, and those whose fixed options (steps, model,
    data …) were others: their losses cannot be compared.
    """
    swept = {*study.swept, *study.touched}
    said = {item.partition("=")[0].lstrip("+") for item in study.overrides}
    fixed = {key: value for key, value in leaves(study.config) if value is not None}
    return [
        record
        for record in records
        if record.spec.generation == study.generation and _is_comparable(record, fixed, swept, said)
    ]


def _is_comparable(record: TrialRecord, fixed: Mapping[str, Any], swept: set[str], said: set[str]) -> bool:
    varied = {key.lstrip("+") for key in swept | set(record.spec.overrides)}
    varied |= {key for key, value in fixed.items() if value == "auto" and key == "batch.micro"}
    varied |= _derived(varied, said) - said
    own = dict(leaves(record.spec.config))
    return all(
        own.get(key, value) == value or mask_all(own[key]) == value  # the study's record holds no password
        for key, value in fixed.items()
        if not any(key == name or key.startswith(f"{name}.") for name in varied)
    )


def _derived(varied: set[str], said: set[str]) -> set[str]:
    """Options that `config.resolved` fills in from others that vary: they differ unasked."""
    found = set()
    if any(key.startswith("batch") for key in varied):
        found.add("batch.accumulation")
        if "batch.accumulation" in varied | said:
            found.add("batch.effective")
    if "train.token_budget" in varied:
        found.add("train.steps")
    return found


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted name and value of every option that is part of a trial's work."""
    for name, value in config.items():
        if not prefix and name in ABOUT_THE_STUDY:
            continue
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def setting_of(config: Mapping[str, Any], key: str) -> Any:
    """The part of a resolved configuration that a switch sets; None when there is none."""
    value: Any = config
    for part in key.lstrip("+").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _settings_reader(records: Sequence[TrialRecord]) -> Callable[[TrialRecord], dict[str, str]]:
    """A function from a trial to its switches, which names each setting as it was typed anywhere."""
    keys = sorted({key for record in records for key in record.spec.overrides})
    typed: dict[tuple[str, str], str] = {}
    for record in records:
        for key, value in record.spec.overrides.items():
            typed.setdefault((key, _identity(record, key)), value)

    def read(record: TrialRecord) -> dict[str, str]:
        return {key: typed.get((key, _identity(record, key)), _identity(record, key)) for key in keys}

    return read


def _identity(record: TrialRecord, key: str) -> str:
    found = setting_of(record.spec.config, key)
    if found is None:  # a key that is no option, such as a package; what was typed is all there is
        return record.spec.overrides.get(key, "null")
    return found if isinstance(found, str) else json.dumps(found, sort_keys=True)


def _work(record: TrialRecord) -> str:
    """What a cell's trials agree in; that some only probed it does not make them another cell."""
    work = {name: value for name, value in leaves(record.spec.config) if name != PROBE}
    return json.dumps([work, record.spec.generation], sort_keys=True, default=str)


def _is_probe(record: TrialRecord) -> bool:
    return setting_of(record.spec.config, PROBE) is not None


def _outcome(record: TrialRecord) -> Outcome | None:
    return record.result.outcome if record.result else None


def _mean(trials: Sequence[TrialRecord]) -> TrialRecord:
    """The first of several completed trials with the mean of each measurement."""
    first = trials[0]
    assert first.result is not None
    values = {item.name: _mean_of(trials, item.name) for item in dataclasses.fields(Measurements)}
    result = dataclasses.replace(first.result, measurements=Measurements(**values))
    return dataclasses.replace(first, result=result)


def _mean_of(trials: Sequence[TrialRecord], name: str) -> Any:
    known = [value for trial in trials if (value := trial.metric(name)) is not None]
    if not known or not all(isinstance(value, int | float) for value in known):
        return known[0] if known else None
    average = mean(known)
    return round(average) if all(isinstance(value, int) for value in known) else average
