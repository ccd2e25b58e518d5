"""`python -m sweeper ui [study.name=…] [--port=N] [--host=H --allow-remote]`: browse a study in MLflow."""

from __future__ import annotations

import sys
import threading
from argparse import Namespace
from collections.abc import Sequence

from sweeper.analysis.open import OpenStudy, open_study
from sweeper.cli.signals import call_on_signals
from sweeper.config.cell import ConfigurationError
from sweeper.contract.trial import Problem
from sweeper.tracking.address import is_server
from sweeper.tracking.ui import is_loopback, serving


def run(options: Sequence[str], flags: Namespace) -> int:
    """Serve MLflow's pages until Ctrl-C."""
    problems = _problems(flags)
    if problems:
        raise ConfigurationError([(problem, "") for problem in problems])
    study = open_study(options)
    problem = study.without_password() or _known(study)
    if problem:
        print(problem, file=sys.stderr)
        return 1
    if is_server(study.tracking_uri):
        print(f"Study {study.record.name}: {study.tracker().url()}")
        return 0
    return _serve(study, flags.host, int(flags.port))


def _problems(flags: Namespace) -> list[Problem]:
    found = []
    if not is_loopback(flags.host) and not flags.allow_remote:
        rule = "--host must be a loopback address, since MLflow's pages ask for no password"
        remedy = "leave it out and use an SSH tunnel, or add --allow-remote"
        found.append(Problem(rule, "--host", flags.host, remedy))
    if not flags.port.isascii() or not flags.port.isdigit() or not 0 < int(flags.port) < 65536:
        found.append(Problem("--port must be a port number", "--port", flags.port, "take one of 1 to 65535"))
    return found


def _known(study: OpenStudy) -> str | None:
    """Make sure that the store knows the study; the problem if it cannot be told."""
    tracker = study.tracker()
    return tracker.sync() if tracker.url() is None else None


def _serve(study: OpenStudy, host: str, port: int) -> int:
    stop = threading.Event()
    call_on_signals(stop.set)
    with serving(study.tracking_uri, host, port, stop) as address:
        if not stop.is_set():
            print(f"Study {study.record.name}: {study.tracker().url(address)}", flush=True)
            print("Ctrl-C ends it.", flush=True)
        stop.wait()
    return 0
