"""What is done to a trial's process before its work begins: devices, threads, memory limit."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from sweeper.contract.config import Config
from sweeper.contract.trial import GIB, TrialSpec


def choose_devices(spec: TrialSpec) -> None:
    """Show the process its own devices and cores only. Must come before CUDA is first used."""
    if spec.cpus is not None:
        os.sched_setaffinity(0, spec.cpus)
    if spec.devices is not None:
        show_devices(spec.devices)


def show_devices(names: str) -> None:
    """Let CUDA and ROCm see these GPUs only."""
    os.environ["CUDA_VISIBLE_DEVICES"] = names
    if "HIP_VISIBLE_DEVICES" in os.environ:  # which ROCm heeds first
        os.environ["HIP_VISIBLE_DEVICES"] = names


def require_devices(spec: TrialSpec, config: Config) -> None:
    """Start CUDA where the trial was given a GPU, which must not be measured as one on a CPU.

    Raises what torch says of a GPU that does not start.
    """
    import torch

    if spec.devices is not None and config.trial.device != "cpu":
        torch.cuda.init()  # type: ignore[no-untyped-call]


def use_threads(spec: TrialSpec) -> None:
    """Give the trial its share of the cores, and start those threads.

    They are started before any memory limit: a thread's stack counts against it, and an OpenMP runtime
    that cannot start a thread ends the process.
    """
    import torch

    if spec.threads is not None:  # else torch takes all cores, or OMP_NUM_THREADS
        torch.set_num_threads(spec.threads)
    torch.ones(1 << 16).sin_().sum()


class MemoryLimit:
    """The limit of `trial.memory_limit_gib`: enforced by the allocator on CUDA, by the kernel on CPU.

    On CPU the limit is on private writable memory (`RLIMIT_DATA`) above the level at trial start.
    """

    def __init__(self, limit_gib: float | None, on_cuda: bool) -> None:
        self.limit_gib = limit_gib
        self.on_cpu = limit_gib is not None and not on_cuda
        if limit_gib is not None and on_cuda:
            _limit_cuda(limit_gib)
        elif limit_gib is not None:
            _limit_data(data_bytes() + int(limit_gib * GIB))

    def lift(self) -> None:
        """Allow what the machine has free."""
        _limit_data(data_bytes() + available_bytes() * 8 // 10)


def _limit_cuda(limit_gib: float) -> None:
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * GIB / total))


def _limit_data(limit_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, hard))


def data_bytes() -> int:
    """Private writable memory of this process (`VmData`, the figure that RLIMIT_DATA limits)."""
    return _kib("/proc/self/status", "VmData:") * 1024


def available_bytes() -> int:
    """Memory that the machine can still hand out without swapping (`MemAvailable`)."""
    return _kib("/proc/meminfo", "MemAvailable:") * 1024


def _kib(path: str, field: str) -> int:
    lines = Path(path).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
