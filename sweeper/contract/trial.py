"""What the driver and a trial process say to each other: plain records in a folder.

A trial is a process whose only interface is its folder (`TrialFolder`). The driver writes
`spec.json`; the trial appends to `progress.jsonl` and, once, writes `result.json`. Nothing else
passes between the two, so a trial runs the same under a fork, a fresh interpreter or a cluster job.

Records hold bytes and seconds; an unknown value is None, never 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sweeper.contract.measurements import Measurements
from sweeper.contract.metrics import GIB as GIB

MISSHAPEN = (ValueError, TypeError, KeyError, AttributeError)
"""What reading a file raises that holds no JSON, or JSON of another shape."""


class Outcome(StrEnum):
    """How a trial ended. A closed set: every trial has exactly one."""

    COMPLETED = "completed"
    """Did all of its work."""
    PRUNED = "pruned"
    """Ended early on purpose; what it measured is kept."""
    OUT_OF_MEMORY = "out_of_memory"
    """Did not fit the device or `trial.memory_limit_gib`."""
    DIVERGED = "diverged"
    """The loss became NaN or infinite."""
    TIMED_OUT = "timed_out"
    """Ran past `trial.timeout_s`."""
    CRASHED = "crashed"
    """Raised, was killed by a signal, or a method that was asked for did not take effect."""
    CANCELLED = "cancelled"
    """The driver ended it (Ctrl-C, or the driver itself died). The cell runs again."""
    INVALID = "invalid"
    """Refused before it started."""
    PREDICTED_OOM = "predicted_oom"
    """Skipped because it was predicted not to fit."""

    @property
    def is_final(self) -> bool:
        """Whether the cell is settled: only a cancelled trial is run again."""
        return self is not Outcome.CANCELLED


@dataclass(frozen=True)
class Problem:
    """A mistake in a configuration, found before any trial."""

    rule: str
    """What must hold."""
    key: str
    """The option that breaks it."""
    value: str
    """What the option holds."""
    remedy: str
    """What to do about it."""


@dataclass(frozen=True)
class TrialSpec:
    """What a trial is asked to do."""

    study: str
    """Name of the study."""
    number: int
    """Number of the trial in its study; equals Optuna's trial number."""
    key: str
    """Identity of the work: equal keys need not be measured twice."""
    config: dict[str, Any]
    """The resolved configuration, in the shape of `Config`."""
    overrides: dict[str, str] = field(default_factory=dict)
    """The swept overrides of this cell, as the user would type them."""
    generation: int = 1
    """Counts up with every `study.fresh=true`; results of older generations are not reused."""
    devices: str | None = None
    """Value for CUDA_VISIBLE_DEVICES, or None to leave it alone."""
    threads: int | None = None
    """CPU threads for the trial, or None for all cores."""
    cpus: list[int] | None = None
    """The cores that are the trial's own, or None for all."""
    stage: str = ""
    """Which part of the search asked for the trial, for a person."""
    repeat: int = 0
    """0, or the how-manieth measurement of a cell that was measured before."""
    heard: list[int] = field(default_factory=list)
    """Trials whose results the search heard between its last proposal and this one: with these, it
    can be led to every decision again."""
    cache_dir: str | None = None
    """Folder of the tokenised data that the trials of this study share."""
    predicted_memory_bytes: int | None = None
    """What the driver predicted the trial's peak memory to be, for its record."""
    corrected_memory_bytes: int | None = None
    """The same after what earlier trials of the study taught."""
    production: bool = False
    """Whether this is the production run of a configuration (`config.production`): it writes
    checkpoints, goes on from the last one, and leaves a model."""
    identity: dict[str, Any] = field(default_factory=dict)
    """What the key stands for beside the configuration: fingerprints of `model` and `data`, `device`,
    `threads` and `versions`. Empty in specs of versions that did not record it."""


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended and what it measured: written once, whole."""

    outcome: Outcome
    reason: str | None = None
    """Why, for every outcome but `completed`, and for a production run that stopped early: one or two
    sentences for a person."""
    measurements: Measurements = field(default_factory=Measurements)
    active: dict[str, Any] = field(default_factory=dict)
    """What was found really active in the process: layer types, optimizer class, attention …"""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, device and host facts under which the trial ran; None where unknown."""
    definitions: dict[str, str] = field(default_factory=dict)
    """How each figure that can be read in several ways was read."""
    traceback: str | None = None
    started_at: str | None = None
    """UTC, ISO 8601."""
    ended_at: str | None = None
    """UTC, ISO 8601."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON types; NaN and infinity become None (JSON has neither)."""
        plain: dict[str, Any] = _finite(dataclasses.asdict(self))
        return plain

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TrialResult:
        """Read a record; fields of other versions of sweeper are ignored."""
        known = known_fields(cls, record)
        known["outcome"] = Outcome(known["outcome"])
        known["measurements"] = Measurements(**known_fields(Measurements, record.get("measurements") or {}))
        return cls(**known)


@dataclass(frozen=True)
class TrialProgress:
    """One line of `progress.jsonl`: a phase that began, an optimizer step, or an evaluation."""

    event: str
    """`phase`, `step` or `eval`."""
    time_s: float
    """Seconds since the trial began its own work."""
    step: int = 0
    """Optimizer steps finished."""
    total_steps: int | None = None
    phase: str | None = None
    """`load`, `train` or `eval` (event `phase` only)."""
    loss: float | None = None
    """Token-weighted loss of the step or evaluation."""
    tokens: int | None = None
    """Non-padding tokens of this step."""
    step_time_s: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The record without its empty fields, as plain JSON types."""
        plain: dict[str, Any] = _finite(dataclasses.asdict(self))
        return {name: value for name, value in plain.items() if value is not None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TrialProgress:
        """Read a record; fields of other versions of sweeper are ignored."""
        return cls(**known_fields(cls, record))


def known_fields(cls: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `record` that are fields of `cls`: other versions of sweeper have others."""
    names = {item.name for item in dataclasses.fields(cls)}
    return {name: value for name, value in record.items() if name in names}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


INFEASIBLE = (Outcome.OUT_OF_MEMORY, Outcome.PREDICTED_OOM, Outcome.DIVERGED, Outcome.TIMED_OUT)
"""Outcomes that say something about the space: a violated constraint, not a failure."""
