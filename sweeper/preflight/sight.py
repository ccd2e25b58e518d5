"""A closer look at the machine: what trials see, and what its GPUs reach at best."""

from __future__ import annotations

from pathlib import Path

from sweeper.contract.config import Config
from sweeper.launchers.base import Launcher
from sweeper.launchers.local import local_launcher
from sweeper.launchers.sight import ask_about_gpus, ask_machine
from sweeper.machine import Machine, is_known, machine, remember
from sweeper.study.folder import CACHE

Ceilings = dict[str, dict[str, float | None]]
"""GPU -> what was measured (`bf16`: operations of a matrix product; `copy`: bytes read and written) -> per
second."""


def look_closely() -> tuple[Machine, Ceilings]:
    """The machine as trials see it, and the ceilings of its GPUs; nobody is asked where there is none."""
    if is_known():
        return machine(), {}
    with local_launcher() as launcher:
        seen = ask_machine(launcher)
        remember(seen)
        return seen, measure_ceilings(launcher, seen)


def measure_ceilings(launcher: Launcher, seen: Machine) -> Ceilings:
    """One measurement per kind of GPU, kept in the cache; none where the process fails."""
    devices = {device.name: device.visible_as for device in seen.usable if device.name}
    cache_dir = str((Path(Config().study.root) / CACHE).absolute())
    found: Ceilings = {}
    for name, visible_as in devices.items():
        rates, _ = ask_about_gpus(launcher, {"measure": visible_as, "cache_dir": cache_dir})
        if rates is not None:
            found[name] = rates
    return found
