"""Facts about the software and the machine under which a trial ran; None where unknown."""

from __future__ import annotations

import logging
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from trainers.meters.readers import Nvml

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "tokenizers",
    "safetensors",
    "flash_attn",
    "numpy",
)


def describe(device: torch.device, nvml: Nvml) -> dict[str, Any]:
    """The environment of a trial as plain JSON types. Never raises: a trial's failure is told with it."""
    return {
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "threads": torch.get_num_threads(),
        "device": _device_name(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cuda_driver": nvml.driver(),
        "device_memory_bytes": _cuda_property(device, "total_memory"),
    }


def quiet_libraries() -> None:
    """Keep progress bars and a message per matrix product out of the logs."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str | None:
    return _cuda_property(device, "name") if device.type == "cuda" else _cpu_model()


def _cuda_property(device: torch.device, name: str) -> Any:
    """A property of a CUDA device; None on a CPU, and where CUDA fails, as it does after some errors."""
    try:
        return getattr(torch.cuda.get_device_properties(device), name) if device.type == "cuda" else None
    except Exception:  # noqa: BLE001 - whatever it is, it must not hide the error that ended the trial
        return None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, None)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
