"""Real servers for tests, on loopback alone: PostgreSQL, and MLflow's server over it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
"""Where Debian puts PostgreSQL's own programs."""
needs_postgresql = pytest.mark.skipif(
    PROGRAMS is None or os.geteuid() != 0, reason="no PostgreSQL on this machine (`make services`, as root)"
)
PASSWORD = "s3cret-of-the-test"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class PostgreSQL:
    """A server with its data in a folder of its own, that can be killed and started again."""

    folder: Path
    port: int

    def address(self, database: str) -> str:
        """As `study.storage` and `tracking.uri` take it."""
        return f"postgresql+psycopg://sweeper:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """Make the data folder, owned by the user that Debian's package has made."""
        self.folder.mkdir(mode=0o755)
        shutil.chown(self.folder, "postgres")
        secret = self.folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        secret.chmod(0o644)
        self._run(
            "initdb", "-D", f"{self.folder}/data", "-U", "sweeper", "-A", "scram-sha-256", "-E", "UTF8",
            "--locale=C", "--no-sync", f"--pwfile={secret}",
        )  # fmt: skip

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off"
        options += f" -c unix_socket_directories={self.folder}"
        self._run(
            "pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o", options, "start"
        )

    def kill(self) -> None:
        """End it without a warning to its clients."""
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", "immediate", "stop")

    def make_database(self, name: str) -> None:
        """Create an empty database."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "sweeper", name)

    def ask(self, database: str, query: str) -> list[tuple[object, ...]]:
        """Rows that `query` gives, past all that sweeper believes."""
        with psycopg.connect(self.address(database).replace("+psycopg", "")) as connection:
            return connection.execute(query).fetchall()

    def _run(self, program: str, *arguments: str) -> None:
        assert PROGRAMS is not None
        subprocess.run(
            ["runuser", "-u", "postgres", "--", str(PROGRAMS / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={**os.environ, "PGPASSWORD": PASSWORD},
            timeout=60,
        )


@contextmanager
def postgresql(folder: Path) -> Iterator[PostgreSQL]:
    """A running server; below a folder that its own user may enter."""
    for parent in [folder, *folder.parents]:
        if parent.owner() == "root" and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    server = PostgreSQL(folder / "postgresql", free_port())
    server.create()
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def mlflow_server(folder: Path, store: str, port: int) -> Iterator[str]:
    """MLflow's server with its runs in the database `store` and its artifacts below `folder`; its address."""
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", store,
        "--serve-artifacts", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (folder / "mlflow-server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        _wait_for(f"{address}/health", server)
        yield address
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answered at {url}")
