"""The machine that trials run on: its devices as trials see them, and the versions of what matters.

Only torch, in a process that sees what a trial sees, knows which GPU a trial gets and whether CUDA starts on
it. The driver therefore believes nothing else: `sweeper.launchers.sight` asks, and what it heard is
remembered here. Where there is no sign of a GPU nobody need be asked.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sweeper import __version__
from sweeper.contract.config import Config
from sweeper.contract.trial import Problem

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets")
"""Libraries whose version can change a measurement."""
ATTENTION_PACKAGES = {
    "flash_attention_2": "flash-attn",
    "flash_attention_3": "flash-attn-3",
    "flash_attention_4": "flash-attn-4",
}
"""Attention kernel -> the distribution that brings it (as in transformers.utils.import_utils)."""
INSTALLING = "see Installing in README.md"


@dataclass(frozen=True)
class Device:
    """A GPU as a trial's process sees it that sees nothing else."""

    visible_as: str
    """The value of CUDA_VISIBLE_DEVICES that shows it."""
    name: str | None = None
    capability: tuple[int, int] | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    """Free memory when it was looked at, less a CUDA context."""
    uuid: str | None = None
    error: str | None = None
    """Why CUDA does not start on it."""

    @property
    def nvml_name(self) -> str:
        """The UUID or number by which NVML knows it, whatever order CUDA counts in."""
        if self.uuid is None or self.visible_as.startswith("MIG-"):
            return self.visible_as
        return self.uuid if self.uuid.startswith("GPU-") else f"GPU-{self.uuid}"


@dataclass(frozen=True)
class Machine:
    """The machine that trials run on, as far as the driver needs it."""

    devices: tuple[Device, ...] = ()
    """The visible GPUs, also those on which CUDA does not start."""
    cpu: str | None = None
    kernels: frozenset[str] = frozenset()
    """The attention kernels whose package is installed."""
    trouble: Problem | None = None
    """Why trials cannot use the GPU that the machine has."""
    torch: str | None = None
    build: str | None = None
    """`cpu`, `cuda` or `rocm`; None where nobody was asked."""
    runtime: str | None = None
    """Version of CUDA or ROCm that torch was built for."""
    driver: str | None = None

    @property
    def usable(self) -> tuple[Device, ...]:
        """The GPUs on which a trial can run."""
        return tuple(device for device in self.devices if device.error is None)

    @property
    def cuda_devices(self) -> tuple[str, ...]:
        """Model name of each of them."""
        return tuple(device.name or "a CUDA device" for device in self.usable)

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """Lowest CUDA compute capability among them; None without one, and where it is AMD's numbering."""
        found = [device.capability for device in self.usable if device.capability and self.build != "rocm"]
        return min(found, default=None)

    @property
    def is_mixed(self) -> bool:
        """Whether the GPUs differ, so that what two of them measure cannot be compared."""
        return len({(device.name, device.capability, device.total_bytes) for device in self.usable}) > 1

    @property
    def device(self) -> str:
        """Model of the device that measurements come from."""
        return self.cuda_devices[0] if self.usable else f"cpu {self.cpu}"


_remembered: list[Machine] = []


def machine() -> Machine:
    """The machine as a trial's process told it; before one was asked, the machine without its GPUs."""
    return _remembered[-1] if _remembered else bare_machine()


def remember(seen: Machine) -> None:
    """Let `machine` answer this from now on."""
    _remembered[:] = [seen]


def is_known() -> bool:
    """Whether `machine` says all: a trial's process was asked, or there is no sign of a GPU."""
    return bool(_remembered) or not (has_nvidia_gpu() or has_amd_gpu())


@cache
def bare_machine() -> Machine:
    """What can be said without torch."""
    return Machine(cpu=_cpu(), kernels=_kernels(), torch=_version("torch"))


def machine_seen(seen: Mapping[str, Any]) -> Machine:
    """The machine that an answer of `trainers.machine` describes."""
    bare = bare_machine()
    devices = tuple(
        Device(**{**item, "capability": tuple(item["capability"]) if item.get("capability") else None})
        for item in seen["devices"]
    )
    told = {name: seen.get(name) for name in ("torch", "build", "runtime", "driver")}
    return Machine(devices, bare.cpu, bare.kernels, _trouble(seen, devices), **told)


def _trouble(seen: Mapping[str, Any], devices: tuple[Device, ...]) -> Problem | None:
    """Why no visible GPU can be used; None where one can, and where torch is for GPUs that are not here."""
    has_own = has_amd_gpu() if seen["build"] == "rocm" else has_nvidia_gpu()
    if any(device.error is None for device in devices) or not has_own:
        return None
    if seen["build"] == "cpu":
        rule = f"torch {seen['torch']} is built without CUDA and cannot use the GPU that is here"
        remedy = f"set trial.device=cpu, or install a build of torch for the GPU ({INSTALLING})"
        return Problem(rule, "trial.device", "auto", remedy)
    error = next((device.error for device in devices if device.error), seen.get("error")) or "no answer"
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not devices and listed:
        error = f"CUDA_VISIBLE_DEVICES={listed} names no GPU that torch finds ({error})"
    rule = f"CUDA must start on the GPU that is here ({error})"
    if "busy or unavailable" in error:  # cudaErrorDevicesUnavailable: exclusive mode
        return Problem(rule, "trial.device", "auto", "end the process that holds it, or set trial.device=cpu")
    built = f"torch {seen['torch']} is built for {seen['build'].upper()} {seen.get('runtime')}"
    driver = f", the driver is {seen['driver']}" if seen.get("driver") else ""
    remedy = f"update the driver or install another torch ({INSTALLING}), or set trial.device=cpu"
    return Problem(rule, "trial.device", "auto", f"{built}{driver}: {remedy}")


def hides_gpus(variable: str = "CUDA_VISIBLE_DEVICES") -> bool:
    """Whether the user has hidden every GPU by this variable."""
    listed = os.environ.get(variable)
    return listed is not None and listed.split(",")[0].strip() in ("", "-1")


def has_nvidia_gpu() -> bool:
    """Whether there is a sign of an NVIDIA GPU: NVML counts one, or its device file is there."""
    return not hides_gpus() and (any(Path("/dev").glob("nvidia[0-9]*")) or _nvml_count() > 0)


def has_amd_gpu() -> bool:
    """Whether the driver of AMD's compute devices is loaded."""
    hidden = hides_gpus() or hides_gpus("HIP_VISIBLE_DEVICES")
    return not hidden and Path("/dev/kfd").exists()


def _nvml_count() -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:  # no driver: no device
        return 0


def device_memory_bytes() -> int | None:
    """Memory of the smallest CUDA device that trials see; None without one."""
    return min((device.total_bytes for device in machine().usable if device.total_bytes), default=None)


def free_memory_bytes() -> int | None:
    """Memory that every CUDA device had free when it was looked at, in steps of a 32nd of the device: what a
    desktop takes varies, and `batch.micro=auto` must not vary with it."""
    found = [(device.free_bytes, device.total_bytes) for device in machine().usable]
    steps = [total // 32 * (free * 32 // total) for free, total in found if free is not None and total]
    return min(steps, default=None)


def _kernels() -> frozenset[str]:
    return frozenset(kernel for kernel, package in ATTENTION_PACKAGES.items() if _version(package))


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
    return config.trial.device == "cuda" or (config.trial.device == "auto" and bool(machine.usable))
