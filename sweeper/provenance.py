"""What the results depend on besides the configuration: versions, devices, hashes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sweeper import __version__

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets")
"""Libraries whose version can change a measurement."""

ABOUT_THE_STUDY = frozenset(
    "study tracking hardware objective constraint strategy fidelity pruner slots space search budget "
    "repeats production memory".split()
)
"""Sections of the configuration that say nothing about the work of a trial."""


@dataclass(frozen=True)
class Machine:
    """The machine that trials run on, as far as the rules need it."""

    cuda_devices: tuple[str, ...]
    """Model name of each CUDA device."""
    compute_capability: tuple[int, int] | None
    """Lowest CUDA compute capability among the devices."""
    flash_attn: bool
    """Whether the package flash-attn is installed."""
    cpu: str | None

    @property
    def device(self) -> str:
        """Model of the device that measurements come from."""
        return self.cuda_devices[0] if self.cuda_devices else f"cpu {self.cpu}"


@cache
def machine() -> Machine:
    """Look at this machine, without torch and without touching CUDA."""
    devices, capability = _cuda_devices()
    return Machine(devices, capability, importlib.util.find_spec("flash_attn") is not None, _cpu())


def _cuda_devices() -> tuple[tuple[str, ...], tuple[int, int] | None]:
    import pynvml

    try:
        pynvml.nvmlInit()
        count = range(pynvml.nvmlDeviceGetCount())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in count]
        names = tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
        capabilities = [tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)) for handle in handles]
    except pynvml.NVMLError:  # no driver: no device
        return (), None
    return names, min(capabilities, default=None)


def device_memory_bytes() -> int | None:
    """Memory of the smallest CUDA device; None without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return min((int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles), default=None)
    except pynvml.NVMLError:  # no driver: no device
        return None


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


@cache
def versions() -> dict[str, str | None]:
    """Version of sweeper and of each library that matters; None where it is not installed."""
    return {"sweeper": __version__, **{name: _version(name) for name in LIBRARIES}}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def trial_key(config: dict[str, Any], model: str | None, data: str | None, device: str) -> str:
    """Identity of a trial's work: 16 hex digits of SHA-256 over all that can change its result.

    `model` and `data` are the fingerprints of their contents.
    """
    work = {name: value for name, value in config.items() if name not in ABOUT_THE_STUDY}
    threads = config["trial"]["threads"] or os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
    identity = {
        "config": work,
        "model": model,
        "data": data,
        "device": device,
        "threads": str(threads) if device.startswith("cpu ") else None,
        "versions": versions(),
    }
    return digest(identity)


def digest(value: Any, length: int = 16) -> str:
    """First `length` hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat()
