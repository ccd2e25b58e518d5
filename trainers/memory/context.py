"""`python -m trainers.memory.context`: what driver and libraries hold of a CUDA device besides the allocator.

It is probed once per device, driver and torch, in a process that does one product, and kept in the cache.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch

from sweeper.contract.json_files import read_json, write_json
from trainers.meters.readers import Nvml

FILE = "context.json"
"""File in the cache below `study.root`: device -> bytes."""
PROBE_S = 120
"""A probe that takes longer has failed: the libraries are loaded in a few seconds."""


def context_bytes(cache_dir: Path) -> int | None:
    """What a trial's process takes of the device besides; None without CUDA, or where nobody can say."""
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda", 0)
    parts = (torch.cuda.get_device_name(device), Nvml(device).driver(), torch.__version__)
    return remembered(cache_dir / FILE, " / ".join(map(str, parts)))


def remembered(file: Path, device: str) -> int | None:
    """The figure of a device, probed when it is not in the file. A failed probe is tried again."""
    known: dict[str, int] = read_json(file) if file.exists() else {}
    if device not in known and (found := _probed()) is not None:
        known[device] = found
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, known)
    return known.get(device)


def _probed() -> int | None:
    with suppress(subprocess.SubprocessError, OSError, ValueError):
        command = [sys.executable, "-m", "trainers.memory.context"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=True)
        return int(done.stdout)
    return None


def main() -> None:
    """Print the bytes; nothing where NVML does not tell them."""
    device = torch.device("cuda", 0)
    one = torch.ones(256, 256, device=device)
    (one @ one).sum().item()
    held = Nvml(device).process_bytes()
    if held is not None:
        sys.stdout.write(str(held - torch.cuda.memory_reserved(device)))


if __name__ == "__main__":
    main()
