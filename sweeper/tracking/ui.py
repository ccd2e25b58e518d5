"""MLflow's own pages for the store of a study: a server on this machine, for as long as it is looked at."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import IO

PORT = 5000
"""Where `mlflow ui` listens by default."""
START_TIMEOUT_S = 90.0
"""A cold start imports mlflow in two processes: 4 to 10 s on two cores, more on a busy machine."""
STOP_TIMEOUT_S = 5.0


class UiError(RuntimeError):
    """The pages cannot be shown; the message says why and what to do."""


def is_loopback(host: str) -> bool:
    """Whether a host can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@contextmanager
def serving(uri: str, host: str, port: int, stop: Event) -> Iterator[str]:
    """MLflow's server on a store; yields its address once it answers or `stop` is set, and ends it with
    all its workers.

    Raises UiError when the port is taken or the server does not come up.
    """
    _check_free(host, port)
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    with tempfile.TemporaryFile() as log:  # a pipe that nobody reads would fill up and stop the server
        process = _started(uri, host, port, log)
        try:
            _wait(process, log, address, stop)
            yield address
        finally:
            _end(process)


def _started(uri: str, host: str, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"],
        # the store's URI may hold a password, and every user of the machine can read a command line
        env={**os.environ, "MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C comes to us alone, and we end the whole group
    )


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except (OSError, OverflowError) as error:
            raise UiError(
                f"the address must be free, but {host}:{port} is not ({error}): give --port=… another number"
            ) from error


def _wait(process: subprocess.Popen[bytes], log: IO[bytes], address: str, stop: Event) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s:
        if stop.is_set():
            return
        if process.poll() is not None:
            log.seek(0)
            output = log.read().decode(errors="replace")[-2000:]
            raise UiError(f"MLflow's server ended with {process.returncode}:\n{output}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            stop.wait(0.1)
    raise UiError(f"MLflow's server did not answer at {address} within {START_TIMEOUT_S:g} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers: they are one process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(STOP_TIMEOUT_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
