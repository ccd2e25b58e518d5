"""The GPUs that trials will see, told by torch itself: the launcher's verb `machine`.

Each answer comes from a fork of its own that sees what a trial in that slot would see, so that a GPU which
does not start takes no other with it, and the process that asks never touches CUDA.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from sweeper.contract.json_files import read_json, write_json
from trainers import devices
from trainers.meters.ceilings import copied_bytes_per_s, measured_ceiling, product_flops_per_s
from trainers.meters.readers import driver_version
from trainers.process import show_devices

HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""What names the visible GPUs: the second is ROCm's own, which heeds the first too."""


def main(folder: Path) -> None:
    """Write `folder/seen.json`: what torch is, and every visible GPU as a trial would see it.

    With `measure` in `folder/machine.json`, the ceilings of that GPU instead, kept in its `cache_dir`.
    """
    asked = read_json(folder / "machine.json")
    found = measure(asked["measure"], Path(asked["cache_dir"])) if "measure" in asked else look()
    write_json(folder / "seen.json", found)


def measure(name: str, cache_dir: Path) -> dict[str, float | None]:
    """The rates of a bf16 matrix product and of copying on the GPU of that name; this process uses CUDA."""
    show_devices(name)
    gpu = torch.device("cuda", 0)
    model = torch.cuda.get_device_name(gpu)
    return {
        "bf16": measured_ceiling(cache_dir, model, "bf16", lambda: product_flops_per_s(gpu, "bf16")),
        "copy": measured_ceiling(cache_dir, model, "copy", lambda: copied_bytes_per_s(gpu)),
    }


def look() -> dict[str, Any]:
    """Describe torch's build, the driver and each visible GPU; what does not start holds its `error`."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "build": "rocm" if torch.version.hip else "cuda" if torch.version.cuda else "cpu",
        "runtime": torch.version.hip or torch.version.cuda,
        "driver": driver_version(),
        "devices": [],
    }
    if not torch.cuda._is_compiled():
        return found
    (counted,) = devices.ask_children([_count])
    names = visible_names(counted.get("count", 0))
    seen = devices.ask_children([lambda name=name: _start(name) for name in names])  # type: ignore[misc]
    silent = {"error": "the process that was to start CUDA ended without an answer"}
    gpus = [{"visible_as": name, **(answer or silent)} for name, answer in zip(names, seen, strict=True)]
    return {**found, **(counted or silent), "devices": gpus}


def visible_names(count: int) -> list[str]:
    """The value of CUDA_VISIBLE_DEVICES that shows each of `count` GPUs alone: as it is named there, else
    its number. As for CUDA, a name that is none hides those after it."""
    listed = next((value for name in reversed(HIDING) if (value := os.environ.get(name))), "")
    names = [name.strip() for name in listed.split(",") if name.strip()]
    return (names or [str(index) for index in range(count)])[:count]


def _count() -> dict[str, Any]:
    """How many GPUs the runtime finds, and why there is none."""
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # the runtime's word, not NVML's
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an error that is only warned of is told by what follows
        count = int(torch._C._cuda_getDeviceCount())
    return (
        {"count": count} if count else {"count": 0, "error": _error(torch.cuda.init) or "no GPU is visible"}
    )


def _start(name: str) -> dict[str, Any]:
    """Start CUDA on one GPU alone, and let it compute."""
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    show_devices(name)
    found: dict[str, Any] = {}
    error = _error(lambda: found.update(_properties())) or _error(_compute)
    return {**found, "error": error} if error else {**found, "free_bytes": torch.cuda.mem_get_info()[0]}


def _properties() -> dict[str, Any]:
    torch.cuda.init()  # type: ignore[no-untyped-call]
    seen = torch.cuda.get_device_properties(0)
    return {
        "name": seen.name,
        "capability": [seen.major, seen.minor],
        "total_bytes": seen.total_memory,
        "uuid": str(seen.uuid) if hasattr(seen, "uuid") else None,
    }


def _compute() -> None:
    torch.ones(1, device="cuda").add_(1)
    torch.cuda.synchronize()


def _error(work: Any) -> str | None:
    """What `work` raises, its first line; None when all goes well."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever CUDA says is the answer
        return next(iter(str(error).splitlines()), "") or type(error).__name__
    return None
