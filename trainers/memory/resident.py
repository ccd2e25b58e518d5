"""What Linux shows as resident and as private memory of a CPU trial beyond its live tensors.

Three things come on top: pages of the weight file that stay mapped, what malloc keeps of freed memory, and
code and buffers of the libraries that are first touched at work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from sweeper.contract.config import Config
from trainers.meters.readers import KEPT_TOP_BYTES
from trainers.methods.model import has_weights, logical_elements, model_path

LIBRARIES_BYTES = 30 * 2**20
"""Code, arenas and buffers of the libraries that are first touched at work."""
KEPT_SHARE = 0.14
"""Share of the small blocks that a forward pass makes in all that malloc keeps of them, or that lies between
live ones; large blocks have mappings of their own (`keep_large_blocks_apart`). With checkpointing it is as
much as without: the pass makes the same, and makes it again."""
QUANTISING_BLOCKS = 12
"""What malloc keeps of the unpacked weights that pass through while a quantised model is loaded, in times
of the largest of them in float32, up to the most that it keeps."""
HALF_PRECISION_BYTES = 60 * 2**20
"""What 16-bit products take besides: oneDNN's generated code and reordered copies."""
# The first three have the least mean error over `benchmarks/memory_cpu.py --shape 30m --fp32` (30 cells), the
# last over the cells in 16 bit of its `--shard 1/6`.
PRIVATE_LIBRARIES_BYTES = 30 * 2**20
"""Arenas, stacks and buffers of the libraries, mapped though not all touched."""
PRIVATE_KEPT_MOST_BYTES = 64 * 2**20
"""What malloc's heap keeps of freed memory at most; as much as the peak where that is smaller."""
PRIVATE_SHARE = 0.3
"""Share of the small blocks that a forward pass makes in all that lies between live blocks of the heap."""
# These three are an upper bound of what `VmData` of 27 trials rose to, sampled each 0.5 ms: 11 cells of the
# embedded model and 16 of a random Llama of 30 M parameters (micro batches 4 and 8, both loops, int8, NF4,
# full fine-tunes, LoRA on all layers). It stayed 10 to 49 MiB and 28 to 89 MiB below.
STORED = {"F32": "torch.float32", "BF16": "torch.bfloat16", "F16": "torch.float16"}
"""Types of the safetensors format in torch's terms."""


def resident_bytes(config: Config, model: nn.Module, phases: Mapping[str, int], small_bytes: int) -> int:
    """Highest resident memory above the level at trial start, from the peaks of the phases and the small
    blocks that a forward pass makes in all.

    Weights that are kept as the file has them are the file's own pages. If some are, the whole file stays
    mapped; if none is, it goes when loading ends.
    """
    while_loading, at_work = _with_files(config, model, phases)
    return max(while_loading, at_work + _overhead(config, model, small_bytes))


def private_bytes(config: Config, model: nn.Module, phases: Mapping[str, int], small_bytes: int) -> int:
    """Private writable memory above the level at trial start (`VmData`), which `RLIMIT_DATA` limits: the
    lowest limit under which a trial is sure to end."""
    while_loading, at_work = _with_files(config, model, phases)
    kept = min(at_work, PRIVATE_KEPT_MOST_BYTES) + int(small_bytes * PRIVATE_SHARE)
    return PRIVATE_LIBRARIES_BYTES + max(while_loading, at_work + kept)


def _with_files(config: Config, model: nn.Module, phases: Mapping[str, int]) -> tuple[int, int]:
    """Bytes while the model is loaded, and the most afterwards, pages of the weight file included."""
    file_bytes, stored = _weight_files(config)
    kept = [weight for weight in model.parameters() if not weight.requires_grad or config.adapter == "full"]
    as_stored = sum(weight.nbytes for weight in kept if str(weight.dtype) == stored)
    besides = max(file_bytes - as_stored, 0)
    at_work = max((size for phase, size in phases.items() if phase != "load"), default=0)
    return phases.get("load", 0) + besides, at_work + (besides if as_stored else 0)


def _overhead(config: Config, model: nn.Module, small_bytes: int) -> int:
    overhead = LIBRARIES_BYTES + int(small_bytes * KEPT_SHARE)
    overhead += HALF_PRECISION_BYTES if config.compute_dtype != "float32" else 0
    packed = [weight for weight in model.parameters() if not weight.dtype.is_floating_point]
    unpacked_bytes = QUANTISING_BLOCKS * 4 * max(map(logical_elements, packed), default=0)
    return overhead + min(unpacked_bytes, KEPT_TOP_BYTES)


def _weight_files(config: Config) -> tuple[int, str | None]:
    """Size of the weight files, and the type of their first tensor in torch's terms."""
    folder = Path(model_path(config.model))
    if not folder.is_dir() or not has_weights(config.model):
        return 0, None
    files = sorted(folder.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files), _first_type(files[0])


def _first_type(file: Path) -> str | None:
    """The format begins with the length of its JSON header (8 bytes, little-endian)."""
    with file.open("rb") as content:
        header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
    names = [name for name in header if name != "__metadata__"]
    return STORED.get(header[names[0]]["dtype"]) if names else None
