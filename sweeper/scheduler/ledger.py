"""Optuna's storage kept up to the folders: it may fail at any time, and is filled later."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sweeper.contract.json_files import UnreadableFileError, read_json, write_json
from sweeper.scheduler.optuna_study import OptunaStudy, Say
from sweeper.study.folder import StudyFolder
from sweeper.study.masking import mask
from sweeper.study.observer import Observer
from sweeper.study.records import TrialRecord
from sweeper.tracking.address import sqlite_path

RETRY_AFTER_S = 30.0
"""How long a storage is left alone after it failed."""


class StorageError(RuntimeError):
    """Optuna's storage cannot be used."""


@dataclass
class Ledger(Observer):
    """The one place where a failing Optuna storage is met."""

    connect: Callable[[], OptunaStudy]
    """Opens the storage, and raises whatever it raises."""
    storage: str
    """Its address."""
    folder: StudyFolder
    loss: Callable[[], float | None]
    """The loss that `eval_loss_within` refers to, as far as it is known."""
    say: Say
    retry_after_s: float = RETRY_AFTER_S
    _study: OptunaStudy | None = None
    _quiet_until_s: float = 0.0
    _has_failed: bool = False
    _noted: dict[str, Any] = field(default_factory=dict)

    def settle(self) -> int:
        """Bring the storage up to the folders, unless nothing has happened since it was; the number of the
        next trial. Raises StorageError when the storage of a study without trials does not answer."""
        highest = self.folder.highest()
        self._noted = self._read_note()
        if self._noted == self._state(self._noted.get("trials", -1)) and self._noted["trials"] > highest:
            return int(self._noted["trials"])
        self._attempt(lambda study: None)
        if self._study is None and highest < 0:
            raise StorageError(f"`study.storage` must be an Optuna storage that answers, but {self._why}")
        return max(highest + 1, self._study.count if self._study else 0)

    def on_start(self, trial: TrialRecord) -> None:
        self._attempt(lambda study: study.hold(trial, self.loss()))

    def on_end(self, trial: TrialRecord) -> None:
        self._attempt(lambda study: study.hold(trial, self.loss()))

    def close(self) -> None:
        """Try once more where it failed, and note how far it is."""
        if self._study is None and not self._has_failed:
            return  # it was not needed
        self._quiet_until_s = 0.0
        self._attempt(lambda study: None)
        if self._study is not None:
            write_json(self.folder.ledger, self._state(self._study.count))

    def _attempt(self, action: Callable[[OptunaStudy], None]) -> None:
        if time.monotonic() < self._quiet_until_s:
            return
        try:
            action(self._connected())
        except Exception as error:  # noqa: BLE001 - it may be any database: whatever it raises, it is no answer
            self._leave_alone(error)
        else:
            if self._has_failed:
                self.say("Optuna's storage answers again and holds all trials")
            self._has_failed = False

    def _connected(self) -> OptunaStudy:
        """The open study; one that was opened just now is brought up to the folders."""
        if self._study is None:
            study = self.connect()
            records = {record.number: record for record in self.folder.read_trials()}
            study.catch_up(records, self.loss(), self.folder.highest(), self.say)
            self._study = study
        return self._study

    def _leave_alone(self, error: Exception) -> None:
        self._study = None  # opening it again finds out what did arrive
        self._quiet_until_s = time.monotonic() + self.retry_after_s
        lines = mask(str(error)).strip().splitlines()
        self._why = f"{mask(self.storage)} raised {type(error).__name__}: {lines[0] if lines else ''}"
        if not self._has_failed:
            self.say(
                f"Optuna's storage failed ({self._why}). Nothing is lost: the trial folders hold everything, "
                "and it is filled when it answers again, or by the same command."
            )
        self._has_failed = True

    def _state(self, trials: int) -> dict[str, Any]:
        """How far the storage is, and by what one can tell that nobody wrote to it since."""
        path = sqlite_path(self.storage)
        if path is None or not path.exists():
            return {"trials": trials, "storage": None}
        stat = path.stat()
        stamp = [stat.st_ino, stat.st_size, stat.st_mtime_ns]
        return {"trials": trials, "storage": mask(self.storage), "stamp": stamp}

    def _read_note(self) -> dict[str, Any]:
        try:
            noted = read_json(self.folder.ledger)
        except (FileNotFoundError, UnreadableFileError):
            return {}
        return noted if isinstance(noted, dict) and noted.get("storage") and "trials" in noted else {}
