"""Databases with their tables: making one takes seconds, so it is made once and copied to where a test is."""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from sweeper.tracking.preload import Preload


def with_store(folder: Path) -> Path:
    """The folder, with an MLflow database that holds nothing yet: what an earlier study would leave."""
    if not (folder / "mlflow.db").exists():
        shutil.copy(empty_store(), folder / "mlflow.db")
    return folder


@cache
def empty_store() -> Path:
    """An MLflow database with its tables, which take seconds to make: made once by the sweep's own code."""
    preload = Preload(f"sqlite:///{tempfile.gettempdir()}/none-{os.getpid()}.db")
    atexit.register(preload.close)
    database = preload.database()
    assert database is not None
    return database


def empty_ledger(folder: Path) -> Path:
    """An Optuna database in the folder: the one that is there, or a new one with its tables."""
    database = folder.absolute() / "optuna.db"
    if not database.exists():
        shutil.copy(_ledger_template(), database)
    return database


@cache
def _ledger_template() -> Path:
    from optuna.storages import RDBStorage

    folder = tempfile.TemporaryDirectory(prefix="sweeper-optuna-")
    atexit.register(folder.cleanup)
    database = Path(folder.name) / "optuna.db"
    RDBStorage(f"sqlite:///{database}")
    return database


@event.listens_for(Engine, "connect")
def _hasty(connection: Any, _: object) -> None:
    """A test's database need not survive a power cut: waiting for the disk is most of what it takes."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")
