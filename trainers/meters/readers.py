"""Readers of memory and energy: the process on Linux, the allocator and NVML on CUDA.

Each reader returns None where the platform cannot say.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

MADV_POPULATE_READ = 22
"""Linux 5.14, include/uapi/asm-generic/mman-common.h."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h."""
LARGE_BLOCK_BYTES = 4 * 2**20
KEPT_TOP_BYTES = 2 * 32 * 2**20
"""The most that glibc keeps at the end of its heap when left to itself (mallopt(3))."""


def resident_bytes() -> int | None:
    """Resident memory of this process now (`VmRSS`)."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int | None:
    """Highest resident memory since the last reset (`VmHWM`)."""
    return _status_bytes("VmHWM")


def reset_peak_resident() -> bool:
    """Set `VmHWM` back to `VmRSS`; whether the kernel allows it (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def release_freed() -> None:
    """Give freed memory back to the system, which glibc keeps resident (malloc_trim(3)); where it can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def keep_large_blocks_apart() -> None:
    """Let malloc map every block from 4 MiB on by itself and give it back when it is freed; where it can.

    Left to itself, glibc moves that threshold up to 32 MiB with the blocks that are freed. Gradients and
    weights then share the heap with small blocks, and how much of it becomes useless between them differs
    from run to run: the same fine-tune of 100 M parameters took 0.9 or 1.4 GiB.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_TOP_BYTES)
    except (OSError, AttributeError):
        return


def _status_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(values[0]) * 1024 if values else None


def map_library_pages() -> None:
    """Map every page of the loaded libraries, so that first use is not counted as growth.

    A forked process has no page table entries for file-backed memory until it touches them: without
    this, code pages that its parent already used would look like memory of the trial.
    """
    try:
        libc = ctypes.CDLL(None)
        for start, size in _file_mappings():
            # an error (old kernel, a file cut short) leaves that mapping as it is
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), MADV_POPULATE_READ)
    except (OSError, AttributeError):
        return


def _file_mappings() -> Iterator[tuple[int, int]]:
    """Start and size of each readable, file-backed mapping of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, _, _, inode, *name = line.split(maxsplit=5)
        if access.startswith("r") and inode != "0" and name and not name[0].startswith("/dev/"):
            start, end = (int(address, 16) for address in span.split("-"))
            yield start, end - start


class Nvml:
    """One CUDA device as NVML sees it. All readings are None where NVML is absent or refuses."""

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        if device.type == "cuda":
            self._open(device)

    def _open(self, device: torch.device) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self._nvml = pynvml
        except Exception:  # noqa: BLE001 - whatever NVML misses here, the reading is unknown and the trial goes on
            self._nvml = None

    def process_bytes(self) -> int | None:
        """Device memory of this process, CUDA context included."""
        if self._nvml is None:
            return None
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        own = [process for process in processes if process.pid == os.getpid()]
        # in a container NVML reports the host's process ids; a lone process can only be this one
        found = own or (processes if len(processes) == 1 else [])
        used = found[0].usedGpuMemory if found else None
        return int(used) if used is not None else None

    def energy_j(self) -> float | None:
        """Energy of the device since its driver was loaded, in joules."""
        if self._nvml is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except self._nvml.NVMLError:
            return None

    def driver(self) -> str | None:
        """Version of the driver."""
        if self._nvml is None:
            return None
        try:
            return str(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError:
            return None


def driver_version() -> str | None:
    """Version of NVIDIA's driver; None without NVML."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None
