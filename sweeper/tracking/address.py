"""The MLflow store from outside: where it is, whether it answers, how to browse it.

Nothing here imports mlflow, so that a preflight stays fast.
"""

from __future__ import annotations

import os
import shlex
import socket
import sqlite3
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.study.masking import mask

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

ANSWER_TIMEOUT_S = 3.0
"""A store that takes longer to answer would hold up every trial."""

_SQLITE = "sqlite:///"
_DATABASES = ("postgresql", "mysql", "mssql")
_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_TIMEOUT_OPTIONS = {
    "psycopg": "connect_timeout",
    "psycopg2": "connect_timeout",
    "pg8000": "timeout",
    "pymysql": "connect_timeout",
    "mysqldb": "connect_timeout",
    "mysqlconnector": "connection_timeout",
    "pyodbc": "timeout",
}
"""What SQLAlchemy's drivers call the seconds that connecting may take, as their manuals say."""
_UNCHECKED = ("databricks", "databricks-uc")  # their address comes from a profile that mlflow reads


def default_uri(study_root: Path) -> str:
    """The SQLite store beside the folder of studies."""
    return f"{_SQLITE}{study_root.parent / 'mlflow.db'}"


def sqlite_path(uri: str) -> Path | None:
    """The file behind an SQLite URI, or None for any other store."""
    if not uri.startswith(_SQLITE):
        return None
    return Path(uri[len(_SQLITE) :].partition("?")[0])


def check(uri: str) -> str | None:
    """Why MLflow's store at `uri` cannot be used, or None when it answers. Takes about 3 s at most."""
    scheme = uri.partition(":")[0].partition("+")[0]
    if uri.startswith(_SQLITE):
        return _check_sqlite(uri)
    if scheme in ("http", "https"):
        return _check_http(uri)
    if scheme in _DATABASES:
        return _check_database(uri, scheme)
    if scheme in _UNCHECKED:
        return None
    return (
        f"`tracking.uri` must be sqlite:///FILE, http(s)://HOST:PORT or a database URL, "
        f"but got {mask(uri)}: for a local store use sqlite:///mlflow.db"
    )


def is_server(uri: str) -> bool:
    """Whether an MLflow server stands at `uri`, which then decides where artifacts lie."""
    return uri.startswith(("http://", "https://")) or uri.partition(":")[0] in _UNCHECKED


def ui_command(uri: str) -> str | None:
    """The command that browses the store; None when a server does that already."""
    if is_server(uri):
        return None
    return f"mlflow ui --backend-store-uri {shlex.quote(mask(uri))}"


def _check_sqlite(uri: str) -> str | None:
    path = sqlite_path(uri)
    assert path is not None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _read_sqlite(path)
        elif not os.access(path.parent, os.W_OK):
            raise PermissionError("the folder is not writable")
    except (OSError, sqlite3.Error) as error:
        return (
            f"MLflow's file must be writable, but {path} is not ({error}): "
            "set `tracking.uri` to another file or fix this one"
        )
    return None


def _read_sqlite(path: Path) -> None:
    """Raises sqlite3.Error or OSError when this is no database or cannot be written."""
    if not os.access(path, os.W_OK):
        raise PermissionError("the file is not writable")
    connection = sqlite3.connect(path, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    finally:
        connection.close()


def _check_http(uri: str) -> str | None:
    scheme, _, address = uri.rstrip("/").partition("://")
    host, slash, path = address.partition("/")
    public = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"  # urllib takes a password for a port
    try:
        with urllib.request.urlopen(f"{public}/health", timeout=ANSWER_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return None  # something answers; behind a gateway `/health` may well be hidden
        return _no_answer(uri, f"HTTP status {error.code}")
    except (OSError, ValueError) as error:
        return _no_answer(uri, str(getattr(error, "reason", error)))


def _check_database(uri: str, scheme: str) -> str | None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        url = make_url(uri)
        url.get_dialect().import_dbapi()
        address = (url.host or "localhost", url.port or _DEFAULT_PORTS[scheme])
        socket.create_connection(address, timeout=ANSWER_TIMEOUT_S).close()  # some drivers know no timeout
        _log_in(url)
    except ImportError as error:
        remedy = "pip install 'finetune-sweeper[postgres]'" if error.name == "psycopg" else "pip install it"
        return (
            f"`tracking.uri` {mask(uri)} needs a database driver, but {error.name} is not installed: "
            f"{remedy}, or use an MLflow server or sqlite:///mlflow.db"
        )
    except (OSError, SQLAlchemyError) as error:
        return _no_answer(uri, str(error).strip().partition("\n")[0])
    return None


def _log_in(url: URL) -> None:
    """Raises SQLAlchemyError when the database does not let us in, as with a wrong password or name."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    option = _TIMEOUT_OPTIONS.get(url.get_driver_name())
    waiting = {option: int(ANSWER_TIMEOUT_S)} if option else {}
    with create_engine(url, poolclass=NullPool, connect_args=waiting).connect() as connection:
        connection.execute(text("SELECT 1"))


def _no_answer(uri: str, why: str) -> str:
    return (
        f"the tracking store must answer, but {mask(uri)} does not ({mask(why)}): "
        "start it, correct `tracking.uri`, or use sqlite:///mlflow.db"
    )
