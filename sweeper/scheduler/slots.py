"""How many trials run at a time, and what of the machine each of them has for itself."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sweeper.config.cell import Cell
from sweeper.contract.config import Config
from sweeper.contract.trial import Problem
from sweeper.machine import Machine, uses_cuda

SETTLE_S = 5.0
"""How long a process that has ended may still be listed on its GPU."""


@dataclass(frozen=True)
class Slot:
    """The part of the machine that one trial has for itself."""

    number: int
    device: str | None = None
    """Its GPU, as CUDA_VISIBLE_DEVICES names it; None on a CPU."""
    cpus: tuple[int, ...] | None = None
    """Its cores; None: all of them."""

    def fitted(self, cell: Cell) -> Cell:
        """The cell as it is measured here: with as many threads as the slot has cores."""
        if self.cpus is None or cell.config.trial.threads is not None:
            return cell
        trial = dataclasses.replace(cell.config.trial, threads=len(self.cpus))
        return dataclasses.replace(cell, config=dataclasses.replace(cell.config, trial=trial))


def make_slots(config: Config, machine: Machine) -> tuple[list[Slot], Problem | None]:
    """The slots that `slots` asks for; one and a problem when the machine has not so many."""
    on_cuda = uses_cuda(config, machine)
    devices = visible_devices(machine) if on_cuda else []
    cpus = sorted(os.sched_getaffinity(0))
    if on_cuda and not devices:
        listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        remedy = "name a GPU in it, or set trial.device=cpu"
        return [Slot(0)], Problem(
            "a trial needs a GPU that it may see", "CUDA_VISIBLE_DEVICES", listed, remedy
        )
    most = len(devices) if on_cuda else len(cpus)
    count = most if config.slots == "auto" and on_cuda else 1 if config.slots == "auto" else config.slots
    if count > most:
        unit = "GPU" if on_cuda else "CPU core"
        return [Slot(0)], Problem(
            f"every trial needs a {unit} of its own", "slots", str(count), f"give slots={most} or less"
        )
    if on_cuda:
        return [Slot(number, device) for number, device in enumerate(devices[: max(1, count)])], None
    if count == 1:
        return [Slot(0)], None
    share = len(cpus) // count
    return [Slot(n, cpus=tuple(cpus[n * share : (n + 1) * share])) for n in range(count)], None


def visible_devices(machine: Machine) -> list[str]:
    """The GPUs that this process may use, by number or UUID; as for CUDA, none after one that is none."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(index) for index in range(len(machine.cuda_devices))]
    names = [name.strip() for name in listed.split(",")]
    return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))


class BusyDeviceError(RuntimeError):
    """Another process computes on a GPU that a trial was to have for itself."""


def _processes_on(device: str) -> list[int]:
    """Ids of the processes that compute on a GPU; none where NVML cannot say."""
    import pynvml

    try:
        pynvml.nvmlInit()
        by_uuid = device.startswith(("GPU-", "MIG-"))
        find = pynvml.nvmlDeviceGetHandleByUUID if by_uuid else pynvml.nvmlDeviceGetHandleByIndex
        handle = find(device if by_uuid else int(device))
        return sorted(process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except (pynvml.NVMLError, ValueError):
        return []


@dataclass
class Idle:
    """Knows since when other processes compute on the GPUs that trials are to have for themselves."""

    say: Callable[[str], None]
    users: Callable[[str], list[int]] = _processes_on
    """Ids of the processes on a GPU."""
    clock: Callable[[], float] = time.monotonic
    _since_s: dict[str, float] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def is_free(self, slot: Slot, mode: str) -> bool:
        """Whether a trial may begin now; `mode`: `trial.require_idle_device`. Raises BusyDeviceError."""
        if slot.device is None or mode == "ignore":
            return True
        users = self.users(slot.device)
        if not users:
            self._since_s.pop(slot.device, None)
            return True
        now_s = self.clock()
        if now_s - self._since_s.setdefault(slot.device, now_s) >= SETTLE_S:
            self._complain(slot.device, ", ".join(map(str, users)), mode)
        return False

    def _complain(self, device: str, names: str, mode: str) -> None:
        if mode == "refuse":
            raise BusyDeviceError(
                f"a trial must have its GPU for itself, but process {names} computes on GPU {device}: "
                "end it, take another GPU with CUDA_VISIBLE_DEVICES, or set trial.require_idle_device=wait"
            )
        if device not in self._said:
            self._said.add(device)
            self.say(f"waiting for GPU {device}, on which process {names} computes")
