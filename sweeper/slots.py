"""How many trials run at a time, and what of the machine each of them has for itself."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from sweeper.contract import Problem
from sweeper.provenance import Machine
from sweeper.rules import uses_cuda
from sweeper.schema import Config
from sweeper.space import Cell

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
    """The GPUs that this process may use, by number or UUID."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(index) for index in range(len(machine.cuda_devices))]
    return [name.strip() for name in listed.split(",") if name.strip()]


class BusyDeviceError(RuntimeError):
    """Another process computes on a GPU that a trial was to have for itself."""


def require_idle(slot: Slot, mode: str, say: Callable[[str], None], wait: Callable[[float], None]) -> None:
    """Refuse or wait for a GPU that another process uses, as `trial.require_idle_device` says.

    Raises BusyDeviceError.
    """
    if slot.device is None or mode == "ignore":
        return
    began_s, said = time.monotonic(), False
    while users := _processes_on(slot.device):
        waited_s = time.monotonic() - began_s
        names = ", ".join(map(str, users))
        if mode == "refuse" and waited_s > SETTLE_S:
            raise BusyDeviceError(
                f"a trial must have its GPU for itself, but process {names} computes on GPU {slot.device}: "
                "end it, take another GPU with CUDA_VISIBLE_DEVICES, or set trial.require_idle_device=wait"
            )
        if not said and waited_s > SETTLE_S:
            say(f"waiting for GPU {slot.device}, on which process {names} computes")
            said = True
        wait(0.5)


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
