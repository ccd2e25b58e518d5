"""Asks a trial's process, once, what trials will see of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from sweeper.contract.trial import Problem
from sweeper.launchers.ask import NoReplyError, ask
from sweeper.launchers.base import Launcher
from sweeper.machine import Machine, bare_machine, is_known, machine, machine_seen, remember


def see_machine(launching: Callable[[], AbstractContextManager[Launcher]]) -> Machine:
    """The machine as trials see it; asked of a process where there is a sign of a GPU, else known."""
    if not is_known():
        with launching() as launcher:
            remember(ask_machine(launcher))
    return machine()


def ask_machine(launcher: Launcher) -> Machine:
    """The machine that a process of the launcher sees; in trouble when that ends without an answer."""
    seen, why = ask_about_gpus(launcher, {})
    if seen is not None:
        return machine_seen(seen)
    rule = f"a process must tell which GPUs trials see, but {why}"
    return replace(bare_machine(), trouble=Problem(rule, "trial.device", "auto", "set trial.device=cpu"))


def ask_about_gpus(launcher: Launcher, request: Mapping[str, str]) -> tuple[dict[str, Any] | None, str]:
    """The answer of `trainers.machine`; None, with how the process ended, when it gave none."""
    try:
        return ask(launcher, "machine", request, tries=1), ""
    except NoReplyError as error:
        last = error.log.splitlines()[-1:]
        return None, f"it {error.ending}: {' '.join(last)}"
