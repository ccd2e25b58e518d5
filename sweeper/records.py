"""The study's folder and the records in it: what was asked, what happened.

studies/<study>/study.json         what was asked
                optuna.db          the Optuna study
                tracking.json      which MLflow run holds which trial
                ranking.json, .md  the verdict, when the study has ended
                report.html, .md   the same with its figures
                decisions.json     what the strategy decided, and why
                trials/0007/       one trial (see `contract.TrialFolder`)
                production/3f2a…/  one production run, which is a folder of the same kind
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sweeper.contract import (
    Measurements,
    ProductionFolder,
    TrialFolder,
    TrialProgress,
    TrialResult,
    TrialSpec,
    UnreadableFileError,
    read_json,
    write_json,
)

PRICE = "price_per_hour"
"""Option of `hardware` that costs are made of."""


class StudyIsBusyError(RuntimeError):
    """Another driver is running this study."""


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


def _energy_per_token_j(measured: Measurements, config: Mapping[str, Any]) -> float | None:
    if measured.energy_j is None or not measured.tokens:
        return None
    return measured.energy_j / measured.tokens


def _cost_per_million_tokens(measured: Measurements, config: Mapping[str, Any]) -> float | None:
    price_per_hour = config.get("hardware", {}).get(PRICE)
    if price_per_hour is None or not measured.tokens_per_s:
        return None
    return float(price_per_hour) / 3600 / measured.tokens_per_s * 1e6


DERIVED: dict[str, Callable[[Measurements, Mapping[str, Any]], float | None]] = {
    "energy_per_token_j": _energy_per_token_j,
    "cost_per_million_tokens": _cost_per_million_tokens,
}
"""Figures made of measurements and the configuration: joules per non-padding token, and the price of a
million of them at the median speed."""

METRICS = (*(item.name for item in dataclasses.fields(Measurements)), *DERIVED)
"""Every figure of a trial: what can be an objective, a constraint, exported and logged."""
_KNOWN = frozenset(METRICS)


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
    def label(self) -> str:
        """The cell as the user would type it, e.g. `lora.r=8 optim=adamw`."""
        return " ".join(f"{key}={value}" for key, value in self.spec.overrides.items()) or "single"

    @property
    def is_probe(self) -> bool:
        """Whether only speed and memory were looked at (`fidelity=probe+train`)."""
        return self.spec.config.get("trial", {}).get("probe_steps") is not None

    def metric(self, name: str) -> float | None:
        """A measurement or a figure derived from some, by its name in METRICS; None when not measured."""
        if name not in _KNOWN:
            raise ValueError(f"a metric must be one of METRICS, but got {name!r}")
        if self.result is None:
            return None
        if name in DERIVED:
            return DERIVED[name](self.result.measurements, self.spec.config)
        value: float | None = getattr(self.result.measurements, name)
        return value

    def derived(self) -> dict[str, float | None]:
        """Every figure of DERIVED."""
        return {name: self.metric(name) for name in DERIVED}


@dataclass(frozen=True)
class StudyFolder:
    """The files of one study. Every file name of a study is made here and nowhere else."""

    path: Path

    @property
    def study(self) -> Path:
        return self.path / "study.json"

    @property
    def optuna(self) -> Path:
        return self.path / "optuna.db"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking.json"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.path / "mlflow"

    @property
    def ranking_json(self) -> Path:
        return self.path / "ranking.json"

    @property
    def ranking_markdown(self) -> Path:
        return self.path / "ranking.md"

    @property
    def report_html(self) -> Path:
        return self.path / "report.html"

    @property
    def report_markdown(self) -> Path:
        return self.path / "report.md"

    @property
    def decisions(self) -> Path:
        """What the strategy decided and why, in order; a study that decided nothing has none."""
        return self.path / "decisions.json"

    @property
    def driver_log(self) -> Path:
        return self.path / "launcher.log"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    def production(self, key: str) -> ProductionFolder:
        return ProductionFolder(self.path / "production" / key[:10])

    def trial(self, number: int) -> TrialFolder:
        return TrialFolder(self.trials / f"{number:04d}")

    def read_study(self) -> StudyRecord | None:
        """The record, or None for a study that has not begun. Raises UnreadableFileError."""
        if not self.study.exists():
            return None
        found = read_json(self.study)
        try:
            record = dict(found)
            return StudyRecord(**record | {"overrides": tuple(record["overrides"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UnreadableFileError(self.study, error) from error

    def write_study(self, record: StudyRecord) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.study, dataclasses.asdict(record))

    def read_trials(self, progress: bool = False) -> list[TrialRecord]:
        """All trials in the order of their numbers, with their progress lines if asked for.

        Each has the price of its device when it ran; one that ran before a price was given has the study's.
        """
        price = self._price()
        return [self._read_trial(number, progress, price) for number in self._numbers()]

    def highest(self) -> int:
        """The highest number of a trial's folder, also of one without a record; -1 when there is none."""
        names = (path.name for path in self.trials.glob("[0-9]*") if path.name.isdigit())
        return max(map(int, names), default=-1)

    def read_trial(self, number: int) -> TrialRecord:
        return self._read_trial(number, progress=True, price=self._price())

    def _price(self) -> Any:
        """What a device costs now, as far as the study's record tells."""
        with suppress(UnreadableFileError):
            study = self.read_study()
            return study.config.get("hardware", {}).get(PRICE) if study else None
        return None

    def _numbers(self) -> list[int]:
        if not self.trials.exists():
            return []
        names = (entry.name for entry in os.scandir(self.trials) if entry.is_dir())
        return sorted(int(name) for name in names if name.isdigit() and self.trial(int(name)).spec.exists())

    def _read_trial(self, number: int, progress: bool, price: Any) -> TrialRecord:
        folder = self.trial(number)
        lines, spec = folder.read_progress() if progress else [], folder.read_spec()
        hardware = spec.config.get("hardware", {})
        if price is not None and hardware.get(PRICE) is None:
            spec.config["hardware"] = {**hardware, PRICE: price}
        return TrialRecord(spec, folder.read_result(), folder, lines)

    def is_locked(self) -> bool:
        """Whether a driver is running this study now."""
        if not self._lock.exists():
            return False
        with self._lock.open() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study for one driver. The lock ends with the process, however it dies.

        Raises StudyIsBusyError when another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as handle:
            if not _taken(handle):
                raise StudyIsBusyError(
                    f"a study must have one driver, but another process is running {self.path}: "
                    "wait for it, stop it, or give this one another `study.name`"
                )
            yield

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"


def _taken(handle: IO[str]) -> bool:
    """Take the lock. `is_locked` of another process holds it for an instant: one refusal is no proof."""
    for _ in range(3):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False
