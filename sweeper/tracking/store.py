"""The only file that speaks to MLflow: runs are created, filled and ended by their explicit ids."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.contract.trial import TrialSpec
from sweeper.tracking.address import is_server, sqlite_path
from sweeper.tracking.entries import Point
from sweeper.tracking.preload import Preload, StoreError, built_store, one_line, put_in_place

if TYPE_CHECKING:
    from mlflow import MlflowClient


_STUDY, _GENERATION = "sweeper.study_id", "sweeper.generation"
_TRIAL, _KEY = "sweeper.trial", "sweeper.trial_key"
_PRODUCTION = "sweeper.production"
_PARENT = "mlflow.parentRunId"
_PAGE = 1000
_MAX_PARAMS_PER_BATCH = 100  # mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH


def generation_filter(study_id: str, generation: int) -> str:
    """The runs of a study's generation in MLflow's search language."""
    return f"tags.`{_STUDY}` = '{study_id}' AND tags.`{_GENERATION}` = '{generation}'"


@dataclass(frozen=True)
class Run:
    """A run that the store holds: of a study's generation, or of a trial."""

    run_id: str
    parent_id: str | None
    """None for the run of a generation."""
    generation: str
    trial: str | None
    """Number of the trial; None for the run of a generation."""
    status: str
    is_deleted: bool


class Store:
    """One experiment of an MLflow store. Every method may raise what `store_errors` translates."""

    def __init__(
        self, uri: str, experiment: str, artifacts: Path, new_database: Path, preload: Preload | None = None
    ) -> None:
        """Connect, and create the experiment if there is none.

        `artifacts` is where a local store keeps the experiment's files (a server decides itself);
        `new_database` is where a missing SQLite file is built before it is moved into place, unless
        `preload` has built one.
        """
        from mlflow import MlflowClient

        if (path := sqlite_path(uri)) is not None and not path.exists():
            put_in_place(built_store(new_database, preload), path)
        self._client: MlflowClient = MlflowClient(tracking_uri=uri)
        location = None if is_server(uri) else artifacts.resolve().as_uri()
        self.experiment_id = self._open_experiment(experiment, location)

    def _open_experiment(self, name: str, location: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            # the kind tells MLflow's UI that these are training runs and not traces of an LLM
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(self._client.create_experiment(name, artifact_location=location, tags=kind))
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def runs(self, study_id: str) -> list[Run]:
        """All runs of a study, deleted ones included."""
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`{_STUDY}` = '{study_id}'",
                run_view_type=3,  # mlflow.entities.ViewType.ALL
                max_results=_PAGE,
                page_token=token,
            )
            found += [_run(run) for run in page]
            token = page.token
            if not token:
                return found

    def create_parent(self, name: str, study_id: str, generation: int, start_ms: int) -> str:
        """Create the run of a study's generation and return its id."""
        return self._create(name, {_STUDY: study_id, _GENERATION: str(generation)}, start_ms)

    def create_child(self, name: str, study_id: str, spec: TrialSpec, parent_id: str, start_ms: int) -> str:
        """Create the run of a trial under `parent_id` and return its id."""
        tags = {_STUDY: study_id, _GENERATION: str(spec.generation), _PARENT: parent_id}
        return self._create(name, tags | {_TRIAL: str(spec.number), _KEY: spec.key}, start_ms)

    def create_production(self, name: str, spec: TrialSpec, parent_id: str | None) -> str:
        """Create the run of a production run, below the run of the study that it comes from.

        Without the study's own tag: it is none of the study's trials.
        """
        tags = {_PRODUCTION: spec.study, _KEY: spec.key, _TRIAL: str(spec.number)}
        return self._create(name, tags | ({_PARENT: parent_id} if parent_id else {}), 0)

    def _create(self, name: str, tags: dict[str, str], start_ms: int) -> str:
        origin = {"mlflow.user": _user(), "mlflow.source.name": "sweeper", "mlflow.source.type": "LOCAL"}
        run = self._client.create_run(
            self.experiment_id, start_time=start_ms or None, tags=origin | tags, run_name=name
        )
        return str(run.info.run_id)

    def tag_experiment(self, name: str, value: str) -> None:
        self._client.set_experiment_tag(self.experiment_id, name, value)

    def write(
        self, run_id: str, params: Mapping[str, str], points: Sequence[Point], tags: Mapping[str, str]
    ) -> None:
        """Add params, metrics and tags in one request. Writing the same twice changes nothing."""
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run_id,
            metrics=[Metric(point.name, point.value, point.time_ms, point.step) for point in points],
            params=[Param(key, value) for key, value in params.items()][:_MAX_PARAMS_PER_BATCH],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def upload(self, run_id: str, files: Mapping[str, str]) -> None:
        """Store texts as the run's artifacts. Raises StoreError whatever goes wrong."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            try:
                self._client.log_artifacts(run_id, folder)
            except Exception as error:  # S3, GCS, Azure … each raise a family of their own
                raise StoreError(f"artifacts: {one_line(error)}") from error

    def set_status(self, run_id: str, status: str, end_ms: int | None = None) -> None:
        """Set the run's status; every status but RUNNING ends it at `end_ms` (None: now)."""
        if status == "RUNNING":
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status=status, end_time=end_ms or None)


def _run(run: object) -> Run:
    info, tags = run.info, run.data.tags  # type: ignore[attr-defined]  # mlflow.entities.Run
    return Run(
        run_id=info.run_id,
        parent_id=tags.get(_PARENT),
        generation=tags.get(_GENERATION, "1"),
        trial=tags.get(_TRIAL),
        status=info.status,
        is_deleted=info.lifecycle_stage == "deleted",
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return "unknown"
