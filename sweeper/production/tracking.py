"""The MLflow run of a production run: created when training begins, filled in when it has ended.

Its id stands in the run's `tracking.json`, so that a run that is resumed goes on under the same one.
"""

from __future__ import annotations

from typing import Any

from sweeper.analysis.open import OpenStudy
from sweeper.contract.folder import ProductionFolder
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.trial import Outcome, TrialSpec
from sweeper.study.masking import mask
from sweeper.study.records import TrialRecord
from sweeper.tracking import entries
from sweeper.tracking.preload import StoreError, store_errors
from sweeper.tracking.store import Store


def show_run(study: OpenStudy, folder: ProductionFolder, spec: TrialSpec) -> str | None:
    """Show the run as running; one line when the store does not take it, which `log_run` tries again."""
    try:
        with store_errors():
            store = _store(study)
            store.set_status(_run_id(study, folder, store, spec), "RUNNING")
    except StoreError as error:
        return f"{_failed(study, error)}: the run is logged when it has ended"
    return None


def end_run(study: OpenStudy, folder: ProductionFolder) -> str | None:
    """Show that the run ended before its work was done; `log_run` ends one that did it all."""
    run_id, result = done(folder, study.tracking_uri).get("run_id"), folder.read_result()
    if run_id is None or (result is not None and result.outcome is Outcome.COMPLETED):
        return None
    try:
        with store_errors():
            status = entries.RUN_STATUS[result.outcome] if result else "KILLED"
            _store(study).set_status(run_id, status)
    except StoreError as error:
        return _failed(study, error)
    return None


def log_run(study: OpenStudy, folder: ProductionFolder, record: TrialRecord) -> str:
    """Fill in the run of a finished training as trials are logged, once; its id. Raises StoreError."""
    assert record.result is not None
    with store_errors():
        store = _store(study)
        run_id = _run_id(study, folder, store, record.spec)
        if is_logged(done(folder, study.tracking_uri)):
            return run_id
        tags = entries.trial_tags(record)
        store.write(run_id, entries.trial_params(record), entries.trial_points(record), tags)
        store.upload(run_id, entries.trial_artifacts(record))
        end_ms = entries.milliseconds(record.result.ended_at)
        store.set_status(run_id, entries.RUN_STATUS[record.result.outcome], end_ms)
        note(study, folder, logged=True)
    return run_id


def done(folder: ProductionFolder, uri: str) -> dict[str, Any]:
    """What was done in this store before."""
    known = dict(read_json(folder.tracking)) if folder.tracking.exists() else {}
    return known if known.get("uri") == mask(uri) else {}


def is_logged(known: dict[str, Any]) -> bool:
    """Whether the run was filled in. One noted without a word about it was: by an older version."""
    return known.get("run_id") is not None and bool(known.get("logged", True))


def note(study: OpenStudy, folder: ProductionFolder, **facts: Any) -> None:
    """Add to what was done in this store."""
    known = done(folder, study.tracking_uri)
    write_json(folder.tracking, {**known, "uri": mask(study.tracking_uri), **facts})


def _run_id(study: OpenStudy, folder: ProductionFolder, store: Store, spec: TrialSpec) -> str:
    """The run that is noted, or a new one below the study's own."""
    if noted := done(folder, study.tracking_uri).get("run_id"):
        return str(noted)
    known = read_json(study.folder.tracking) if study.folder.tracking.exists() else {}
    record = TrialRecord(spec, None, folder)
    parent_id = known.get("parents", {}).get(str(study.record.generation))
    run_id = store.create_production(f"production: {record.label}", spec, parent_id)
    note(study, folder, run_id=run_id, logged=False)
    store.write(run_id, entries.trial_params(record), [], {})
    return run_id


def _store(study: OpenStudy) -> Store:
    experiment = study.config.tracking.experiment or study.record.name
    new_database = study.folder.path / ".mlflow.db.new"
    return Store(study.tracking_uri, experiment, study.folder.mlflow_artifacts, new_database)


def _failed(study: OpenStudy, error: StoreError) -> str:
    return f"MLflow at {mask(study.tracking_uri)} failed ({error})"
