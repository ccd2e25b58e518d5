"""The folder of a study: its files, and the lock of the driver that works in it."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sweeper.contract.folder import ProductionFolder, TrialFolder
from sweeper.contract.json_files import UnreadableFileError, read_json, write_json
from sweeper.contract.measurements import PRICE
from sweeper.contract.trial import MISSHAPEN, Problem
from sweeper.study.records import StudyRecord, TrialRecord, count_unrecorded_cells


class StudyIsBusyError(RuntimeError):
    """Another driver is running this study."""


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
    def ledger(self) -> Path:
        """How far Optuna's storage is: nothing need be told to one that is up to the folders."""
        return self.path / "ledger.json"

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
            if "cells" not in record:
                record["cells"] = count_unrecorded_cells(record)
            tuples = {name: tuple(record.get(name, ())) for name in ("overrides", "flags", "touched")}
            return StudyRecord(**record | tuples)
        except MISSHAPEN as error:
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


def find_root_problem(root: str) -> Problem | None:
    """Why no study can be written below a root; None when one can. Leaves nothing behind."""
    rule, remedy = "study.root must be a folder that can be written", "give study.root=… another folder"
    if not root or "\0" in root:
        return Problem(rule, "study.root", repr(root), remedy)
    path = Path(root).absolute()
    try:
        nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
        with tempfile.TemporaryDirectory(prefix=".sweeper-", dir=nearest):
            return None
    except OSError as error:
        return Problem(rule, "study.root", f"{root} ({error.strerror})", remedy)


CACHE = ".cache"
"""Folder below `study.root` for tokenised data, shared by its studies."""
