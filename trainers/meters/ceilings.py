"""What a device reaches at best: the rate of a large matrix product, and of copying memory.

Measured once per device and kept beside the tokenised data, so that all trials of a study are held against
the same figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from sweeper.contract.json_files import read_json, write_json

FILE = "ceilings.json"
"""Device -> what was measured -> per second. In the cache below `study.root`."""
PRODUCT_SIZE = 8192
"""Rows of the square matrices: a product of this size keeps every GPU busy (three take 384 MiB in 16 bit)."""
COPY_BYTES = 2**29
"""More than any GPU's cache."""
REPEATS = 10
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def product_flops_per_s(device: torch.device, arithmetic: str, size: int = PRODUCT_SIZE) -> float:
    """Operations per second of the fastest of some products of square matrices."""
    left, right = (torch.randn(size, size, device=device, dtype=DTYPES[arithmetic]) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * size**3 / _fastest_s(device, lambda: torch.mm(left, right, out=out))


def copied_bytes_per_s(device: torch.device, size_bytes: int = COPY_BYTES) -> float:
    """Bytes read and written per second by the fastest of some copies on the device."""
    source = torch.zeros(size_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size_bytes / _fastest_s(device, lambda: target.copy_(source))


def measured_ceiling(
    cache_dir: Path | None, device_name: str, what: str, measure: Callable[[], float]
) -> float | None:
    """A rate that was measured before on such a device, or is now; None where it cannot be."""
    path = cache_dir / FILE if cache_dir is not None else None
    known = read_json(path) if path is not None and path.exists() else {}
    if what not in known.get(device_name, {}):
        try:
            rate = measure()
        except RuntimeError:  # no memory left for it, or no such arithmetic
            return None
        known[device_name] = {**known.get(device_name, {}), what: rate}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, known)
    return float(known[device_name][what])


def _fastest_s(device: torch.device, work: Callable[[], object]) -> float:
    times_s = []
    for _ in range(REPEATS + 1):  # the first one warms up
        _wait(device)
        start_s = time.perf_counter()
        work()
        _wait(device)
        times_s.append(time.perf_counter() - start_s)
    return min(times_s[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
