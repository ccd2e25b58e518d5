"""MLflow imported and its tables made while other work goes on."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.study.masking import mask
from sweeper.tracking.address import sqlite_path

if TYPE_CHECKING:
    pass


_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
"""Set before mlflow is imported unless the user has set them. MLflow's own defaults retry a dead
server for minutes, and the study would wait."""

LIBRARIES = ("optuna", "alembic.command", "mlflow", "mlflow.store.tracking.sqlalchemy_store")
"""Slow to import; the first use of a local store would import the two that their libraries put off."""


class StoreError(Exception):
    """The tracking store did not take what it was given; the message says why in one line."""


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn every way in which a store can fail into StoreError."""
    prepare_environment()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # ImportError: no driver
        raise StoreError(one_line(error)) from error


class Preload:
    """Imports the slow libraries and makes the tables of a database that is missing, while something else
    is waited for: both take seconds. `close` it when no `Store` is going to be opened any more."""

    def __init__(self, uri: str) -> None:
        """Begins with `start`, or when something of it is first needed."""
        prepare_environment()
        self._folder = tempfile.TemporaryDirectory(prefix="sweeper-mlflow-", ignore_cleanup_errors=True)
        self._database = Path(self._folder.name) / "mlflow.db"
        path = sqlite_path(uri)
        self._builds = path is not None and not path.exists()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._has_begun = False

    def start(self) -> None:
        """Begin, in a thread of its own."""
        if not self._has_begun:
            self._has_begun = True
            self._thread.start()

    def wait(self) -> None:
        """Until it is done."""
        self.start()
        self._thread.join()

    def finish(self) -> None:
        """Until it is done, if it has begun. Optuna must not migrate a database meanwhile: alembic serves one
        at a time."""
        if self._has_begun:
            self._thread.join()

    def database(self) -> Path | None:
        """A new database with MLflow's tables, once; None when there is none to be had."""
        self.wait()
        return self._database if self._database.exists() else None

    def close(self) -> None:
        """Remove what was not used. Work that nobody waited for is abandoned: its thread ends with the
        process."""
        self._builds = False
        self._folder.cleanup()

    def _work(self) -> None:
        for library in LIBRARIES:
            importlib.import_module(library)
        if self._builds:
            with suppress(StoreError), store_errors():  # whoever opens the store tries again, and tells
                _make_tables(self._database)


def prepare_environment() -> None:
    """Keep MLflow quiet and offline; must come before it is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def built_store(new_database: Path, preload: Preload | None) -> Path:
    """A file with MLflow's tables that nobody else writes to."""
    built = preload.database() if preload else None
    if built is not None:
        return built
    for left_over in (new_database, new_database.with_name(f"{new_database.name}-journal")):
        left_over.unlink(missing_ok=True)  # of a process that was killed here
    _make_tables(new_database)
    return new_database


def _make_tables(path: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{path.resolve()}").search_experiments(max_results=1)


def put_in_place(built: Path, path: Path) -> None:
    """Link a finished database to where it belongs; it is gone from where it was built.

    MLflow's tables are made elsewhere because a process that is killed between two of its schema
    migrations leaves a file that MLflow never opens again, and because two studies may start at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    neighbour = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.copyfile(built, neighbour)
    try:
        os.link(neighbour, path)
    except FileExistsError:
        pass  # another study was faster
    finally:
        neighbour.unlink()
        built.unlink()


def one_line(error: BaseException) -> str:
    """What went wrong in the first place; MLflow wraps a refused connection three times."""
    origin: BaseException | None = error
    while origin is not None:
        if isinstance(origin, OSError):
            error = origin
        origin = origin.__cause__ or origin.__context__
    lines = str(error).strip().splitlines()
    return mask(lines[0])[:200] if lines else type(error).__name__
