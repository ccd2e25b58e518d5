"""How many trials run at a time, and what of the machine each of them has for itself."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sweeper.config.cell import Cell
from sweeper.contract.config import Config
from sweeper.contract.trial import Problem
from sweeper.machine import Device, Machine, uses_cuda

Users = Callable[[str], list[int]]
"""Ids of the processes that compute on a GPU, by the name that NVML has for it."""
SETTLE_S = 5.0
"""How long a process that has ended may still be listed on its GPU."""
POLL_S = 0.2


@dataclass(frozen=True)
class Slot:
    """The part of the machine that one trial has for itself."""

    number: int
    device: str | None = None
    """Its GPU, as CUDA_VISIBLE_DEVICES names it; None on a CPU."""
    nvml_name: str | None = None
    """The same as NVML names it; None where it has the same name there."""
    cpus: tuple[int, ...] | None = None
    """Its cores; None: all of them."""

    def fitted(self, cell: Cell) -> Cell:
        """The cell as it is measured here: with as many threads as the slot has cores."""
        if self.cpus is None or cell.config.trial.threads is not None:
            return cell
        trial = dataclasses.replace(cell.config.trial, threads=len(self.cpus))
        return dataclasses.replace(cell, config=dataclasses.replace(cell.config, trial=trial))


def make_slots(
    config: Config, machine: Machine, users: Users | None = None
) -> tuple[list[Slot], Problem | None]:
    """The slots that `slots` asks for; one and a problem when the machine has not so many.

    Of more GPUs than are asked for, those on which nobody computes come first (`users`: who does).
    """
    on_cuda = uses_cuda(config, machine) and bool(machine.usable)
    cpus = sorted(os.sched_getaffinity(0))
    most = len(machine.usable) if on_cuda else len(cpus)
    count = most if config.slots == "auto" and on_cuda else 1 if config.slots == "auto" else config.slots
    if count > most:
        unit = "GPU" if on_cuda else "CPU core"
        return [Slot(0)], Problem(
            f"every trial needs a {unit} of its own", "slots", str(count), f"give slots={most} or less"
        )
    if on_cuda:
        return _gpu_slots(machine.usable, max(1, count), users or processes_on), None
    if count == 1:
        return [Slot(0)], None
    share = len(cpus) // count
    return [Slot(n, cpus=tuple(cpus[n * share : (n + 1) * share])) for n in range(count)], None


def _gpu_slots(devices: Sequence[Device], count: int, users: Users) -> list[Slot]:
    if count < len(devices):
        devices = sorted(devices, key=lambda device: bool(users(device.nvml_name)))
    chosen = devices[:count]
    return [Slot(number, device.visible_as, device.nvml_name) for number, device in enumerate(chosen)]


class BusyDeviceError(RuntimeError):
    """Another process computes on a GPU that a trial was to have for itself."""


def processes_on(device: str) -> list[int]:
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
    users: Users = processes_on
    clock: Callable[[], float] = time.monotonic
    _since_s: dict[str, float] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def is_free(self, slot: Slot, mode: str) -> bool:
        """Whether a trial may begin now; `mode`: `trial.require_idle_device`. Raises BusyDeviceError."""
        if slot.device is None or mode == "ignore":
            return True
        users = self.users(slot.nvml_name or slot.device)
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


def await_slot(
    config: Config, machine: Machine, say: Callable[[str], None], idle: Idle | None = None
) -> Slot:
    """One slot, as soon as its device is idle; `trial.require_idle_device` says how that is seen to.

    Raises BusyDeviceError where that is `refuse`.
    """
    idle = idle or Idle(say)
    (slot,), _ = make_slots(dataclasses.replace(config, slots=1), machine, idle.users)
    while not idle.is_free(slot, config.trial.require_idle_device):
        time.sleep(POLL_S)
    return slot
