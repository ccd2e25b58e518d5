"""The machine that trials run on: its devices and the versions of the libraries that matter."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sweeper import __version__
from sweeper.contract.config import Config

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets")
"""Libraries whose version can change a measurement."""


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


def uses_cuda(config: Config, machine: Machine) -> bool:
    """Whether trials of this configuration run on a CUDA device."""
    return config.trial.device == "cuda" or (config.trial.device == "auto" and bool(machine.cuda_devices))
