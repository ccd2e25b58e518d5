"""Records -> MLflow: one parent run per study (and per `study.fresh=true`), one child run per trial.

The trial folders are the record; MLflow is a view of them. So the driver alone writes to MLflow, a
store that fails costs nothing but a line of text, and `sync` logs whatever is missing. What was
logged is known from the store itself; `tracking.json` repeats it for those who do not want to ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal
from uuid import uuid4

from sweeper.contract.json_files import UnreadableFileError, read_json, write_json
from sweeper.study.folder import StudyFolder
from sweeper.study.masking import mask
from sweeper.study.records import StudyRecord, TrialRecord
from sweeper.tracking import entries
from sweeper.tracking.address import sqlite_path
from sweeper.tracking.preload import Preload, StoreError, store_errors
from sweeper.tracking.store import Run, Store, generation_filter
from sweeper.tracking.view import view, view_tag, view_url

StudyState = Literal["running", "ended", "interrupted"]
_STUDY_STATUS = {"running": "RUNNING", "ended": "FINISHED", "interrupted": "KILLED"}


SAVES = 100
"""A ledger of more trials than this is saved after each percent of them: what a killed driver has not noted,
the store itself tells the next one."""


@dataclass
class Ledger:
    """Which MLflow run holds which trial: `tracking.json`."""

    study_id: str = field(default_factory=lambda: uuid4().hex[:12])
    """Marks the study's runs in the store. A study folder that was deleted and made again is another
    study, whatever its name."""
    uri: str = ""
    """The store that the rest speaks of, passwords masked."""
    experiment: str = ""
    experiment_id: str | None = None
    parents: dict[str, str] = field(default_factory=dict)
    """Generation -> run id."""
    trials: dict[str, str] = field(default_factory=dict)
    """Trial number -> run id, for the trials that are logged completely."""
    ended: bool = False
    """Whether the study's run was closed with its ranking."""


class Tracker:
    """Logs one study. No method raises because of the store: a problem comes back as one line."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        folder: StudyFolder,
        study: StudyRecord,
        retry_after_s: float = 30.0,
        preload: Preload | None = None,
    ) -> None:
        """Opens nothing yet. After a failure the store is left alone for `retry_after_s`."""
        self._preload = preload
        self._uri = uri
        self._experiment = experiment
        self._folder = folder
        self._study = study
        self._retry_after_s = retry_after_s
        self._quiet_until = 0.0
        self._store: Store | None = None
        self._unfinished: dict[str, str] = {}
        self.sent = 0
        """Trials that this tracker has logged itself."""
        self._ledger = self._read_ledger()

    def is_complete(self) -> bool:
        """Whether everything in the study's folder is logged, as far as one can tell without mlflow."""
        path = sqlite_path(self._uri)
        store_is_there = path is None or path.exists()
        return store_is_there and self._ledger.ended and not self._missing()

    def log_trial(self, record: TrialRecord) -> str | None:
        """Log a trial that has ended; one that is logged already is left alone.

        A cancelled trial is no result and gets no run: its cell runs again.
        """
        if not self._is_missing(record):
            return None
        return self._attempt(lambda: self._send_trial(record))

    def log_study(
        self,
        trials: Sequence[TrialRecord],
        state: StudyState,
        best: TrialRecord | None = None,
        left_out: str | None = None,
    ) -> str | None:
        """Bring the study's run up to date. With `ended`, `ranking.json` and `ranking.md` go along.

        `left_out`: which trials are not judged and why, for a person.
        """
        return self._attempt(lambda: self._send_study(trials, state, best, left_out))

    def attach_report(self) -> str | None:
        """Add the report in the study's folder to the artifacts of the study's run."""
        return self._attempt(self._send_report)

    def sync(self) -> str | None:
        """Log every ended trial of the study's folder that the store does not have.

        Tries at once, also after a failure.
        """
        self._quiet_until = 0.0
        return self._attempt(self._send_missing)

    def url(self, address: str | None = None) -> str | None:
        """Where the study is to be seen once MLflow's server or `ui_command` runs, at `address` if that
        is another one; None before the store was first opened."""
        if self._ledger.experiment_id is None:
            return None
        ledger = self._ledger
        return view_url(
            address or self._uri, str(ledger.experiment_id), ledger.study_id, self._study.generation
        )

    @property
    def logged(self) -> int:
        """How many trials the store holds, as far as is known."""
        return len(self._ledger.trials)

    def _attempt(self, action: Callable[[], None]) -> str | None:
        """The one place where a failing store is met."""
        if time.monotonic() < self._quiet_until:
            return None
        try:
            with store_errors():
                self._connect()
                action()
        except StoreError as error:
            self._store = None  # opening it again finds out what did arrive
            self._quiet_until = time.monotonic() + self._retry_after_s
            return (
                f"MLflow at {mask(self._uri)} failed ({error}). Nothing is lost: the trial folders hold "
                "everything, and the same command logs what is missing."
            )
        return None

    def _connect(self) -> None:
        if self._store is None:
            self._open()

    def _open(self) -> None:
        """Connect, and learn from the store what it holds."""
        self._save_ledger()  # the study's id must outlive this process before a run bears it
        new_database = self._folder.path / ".mlflow.db.new"
        store = Store(self._uri, self._experiment, self._folder.mlflow_artifacts, new_database, self._preload)
        self._ledger.experiment_id = store.experiment_id
        self._take_stock(store.runs(self._ledger.study_id))
        self._store = store
        self._parent(store, self._study.generation)
        self._save_ledger()

    def _take_stock(self, runs: Sequence[Run]) -> None:
        """A trial is logged once its run is no longer RUNNING: the status is written last."""
        parents = [run for run in runs if run.trial is None and not run.is_deleted]
        self._ledger.parents = {run.generation: run.run_id for run in parents}
        current = str(self._study.generation)
        self._ledger.ended = any(run.generation == current and run.status == "FINISHED" for run in parents)
        kept = {run.run_id for run in parents}
        children = {run.trial: run for run in runs if run.trial is not None and run.parent_id in kept}
        self._ledger.trials = {n: run.run_id for n, run in children.items() if run.status != "RUNNING"}
        self._unfinished = {n: run.run_id for n, run in children.items() if run.status == "RUNNING"}

    def _parent(self, store: Store, generation: int) -> str:
        """The run of a generation, created when there is none."""
        parents, study_id = self._ledger.parents, self._ledger.study_id
        if str(generation) not in parents:
            name = self._study.name if generation == 1 else f"{self._study.name} (fresh {generation})"
            start_ms = entries.milliseconds(self._study.created_at) if generation == 1 else 0
            run_id = store.create_parent(name, study_id, generation, start_ms)
            tags = entries.study_tags(self._folder, self._study, trials=(), best=None)
            store.write(run_id, entries.study_params(self._study), [], tags)
            shown = view(self._study, generation_filter(study_id, generation))
            store.tag_experiment(view_tag(study_id, generation), shown)
            parents[str(generation)] = run_id
        return parents[str(generation)]

    def _send_trial(self, record: TrialRecord) -> None:
        number = str(record.number)
        if number in self._ledger.trials or record.result is None:
            return
        if not record.progress:
            record = self._folder.read_trial(record.number)
        store, result = self._opened(), record.result
        assert result is not None
        parent_id = self._parent(store, record.spec.generation)
        start_ms = entries.milliseconds(result.started_at)
        run_id = self._unfinished.pop(number, None) or store.create_child(
            record.label, self._ledger.study_id, record.spec, parent_id, start_ms
        )
        tags = entries.trial_tags(record)
        store.write(run_id, entries.trial_params(record), entries.trial_points(record), tags)
        store.upload(run_id, entries.trial_artifacts(record))
        end_ms = entries.milliseconds(result.ended_at)
        store.set_status(run_id, entries.RUN_STATUS[result.outcome], end_ms)
        self._ledger.trials[number] = run_id
        self.sent += 1
        self._ledger.ended = False  # its ranking does not know this trial
        if self.sent % max(1, len(self._ledger.trials) // SAVES) == 0:
            self._save_ledger()

    def _send_missing(self) -> None:
        for record in self._missing():
            self._send_trial(record)

    def _send_study(
        self,
        trials: Sequence[TrialRecord],
        state: StudyState,
        best: TrialRecord | None,
        left_out: str | None,
    ) -> None:
        store, generation = self._opened(), self._study.generation
        run_id = self._parent(store, generation)
        own = [trial for trial in trials if trial.spec.generation == generation]
        store.write(run_id, {}, [], entries.study_tags(self._folder, self._study, own, best, left_out))
        if state == "ended":
            store.upload(run_id, entries.study_artifacts(self._folder))
        store.set_status(run_id, _STUDY_STATUS[state])
        self._ledger.ended = state == "ended"
        self._save_ledger()

    def _send_report(self) -> None:
        store = self._opened()
        store.upload(self._parent(store, self._study.generation), entries.report_artifacts(self._folder))

    def _opened(self) -> Store:
        assert self._store is not None
        return self._store

    def _missing(self) -> list[TrialRecord]:
        return [record for record in self._folder.read_trials() if self._is_missing(record)]

    def _is_missing(self, record: TrialRecord) -> bool:
        ended = record.result is not None and record.result.outcome.is_final
        return ended and str(record.number) not in self._ledger.trials

    def _read_ledger(self) -> Ledger:
        """What `tracking.json` says, or only the study's id when it speaks of another store."""
        ledger = Ledger(uri=mask(self._uri), experiment=self._experiment)
        if not self._folder.tracking.exists():
            return ledger
        try:
            noted = Ledger(**read_json(self._folder.tracking))
        except TypeError as error:
            raise UnreadableFileError(self._folder.tracking, error) from error
        if (noted.uri, noted.experiment) == (ledger.uri, ledger.experiment):
            return noted
        return replace(ledger, study_id=noted.study_id)

    def _save_ledger(self) -> None:
        write_json(self._folder.tracking, asdict(self._ledger))
