"""The files of a checkpoint: which of them hold its weights, and whether they are whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from sweeper.contract.config import ModelConfig
from sweeper.contract.json_files import read_json
from sweeper.contract.trial import Problem
from trainers.data.fingerprints import Memo, file_hash

LFS_POINTER = b"version https://git-lfs"
"""Beginning of the text that Git LFS leaves in place of a file (git-lfs, docs/spec.md)."""
WEIGHT_TYPES = ("F64", "F32", "F16", "BF16")
"""Types of safetensors in which the weights of a model are stored that is not quantised."""
SHOWN = 3
"""Names that a message lists."""


@dataclass(frozen=True)
class Header:
    """One tensor of a checkpoint, without its values."""

    shape: tuple[int, ...]
    dtype: str
    """In safetensors' words: `F32`, `BF16`, `U8` …"""


def local_folder(model: ModelConfig, path: str) -> Path | None:
    """The folder with the model's files: its own, or the snapshot of a hub id that was fetched before."""
    if Path(path).is_dir():
        return Path(path)
    try:
        cached = try_to_load_from_cache(path, "config.json", revision=model.revision)
    except ValueError:  # no name of a repository
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def list_weight_files(folder: Path) -> list[Path]:
    """The files from which `from_pretrained` would read weights, there or not; none when it finds none."""
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        return []
    shards = read_json(index).get("weight_map", {}).values()
    return [folder / name for name in sorted(set(map(str, shards)))]


def find_file_problems(path: str, folder: Path) -> list[Problem]:
    """Whether the weights are there, whole, and in a format that is read here."""
    try:
        files = list_weight_files(folder)
    except (ValueError, AttributeError):
        return [_problem("the index of the shards must be JSON", folder / SAFE_WEIGHTS_INDEX_NAME)]
    if not files:
        return [_without_weights(path, folder)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        rule = f"every shard that {SAFE_WEIGHTS_INDEX_NAME} names must be there, but {some(missing)} is not"
        return [Problem(rule, "model.path", path, "copy or download the missing files")]
    return [problem for file in files for problem in _damage(file)]


def _without_weights(path: str, folder: Path) -> Problem:
    """Why nothing can be loaded from a folder, by the weights that it holds in other formats."""
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    pickled = sorted(file.name for name in ("*.bin", "*.pt", "*.pth") for file in folder.glob(name))
    packed = sorted(file.name for file in folder.glob("*.gguf"))
    if others:
        rule = f"the weights must be in {SAFE_WEIGHTS_NAME} or in indexed shards, but are in {some(others)}"
        remedy = f"rename a single file to {SAFE_WEIGHTS_NAME}; give shards their {SAFE_WEIGHTS_INDEX_NAME}"
    elif pickled:
        rule = f"the weights must be in safetensors, since {some(pickled)} could run code when it is read"
        remedy = (
            'if you trust its source, convert it once: python -c "from transformers import '
            f'AutoModelForCausalLM as M; M.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"'
        )
    elif packed:
        rule = f"the weights must be in safetensors, but {some(packed)} is a file for llama.cpp"
        remedy = "give the model that it was made from"
    else:
        rule = "a trial needs a model with weights, and this is a configuration only"
        remedy = "ask `python -m sweeper memory` about it, or give a folder with *.safetensors, or a hub id"
    return Problem(rule, "model.path", path, remedy)


def _damage(file: Path) -> list[Problem]:
    with file.open("rb") as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            rule = "the weights must be there themselves, but this is a pointer of Git LFS"
            return [_problem(rule, file, "fetch them: git lfs pull")]
    try:
        with safe_open(file, framework="pt"):
            return []
    except (SafetensorError, OSError) as error:
        return [_problem(f"the file must be whole, but is cut or damaged ({error})", file)]


def _problem(rule: str, file: Path, remedy: str = "copy or download the file again") -> Problem:
    return Problem(rule, "model.path", str(file), remedy)


def read_headers(files: list[Path]) -> dict[str, Header]:
    """Name, shape and type of every tensor. Raises SafetensorError for a damaged file."""
    found: dict[str, Header] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no dictionary
                tensor = opened.get_slice(name)
                found[name] = Header(tuple(tensor.get_shape()), str(tensor.get_dtype()))
    return found


def find_infinite_weights(path: str, files: list[Path], cache_dir: Path) -> list[Problem]:
    """Tensors that hold NaN or infinity. A file that was looked at before is not read again."""
    memo = Memo(cache_dir)
    found = [name for file in files for name in _infinite(file, memo)]
    if not found:
        return []
    rule = f"every weight must be a finite number, but {some(found)} holds NaN or infinity"
    return [Problem(rule, "model.path", path, "give a checkpoint from before the training diverged")]


def _infinite(file: Path, memo: Memo) -> list[str]:
    key = f"infinite:{file_hash(file, memo)}"
    known = memo.get(key)
    if known is None:
        with safe_open(file, framework="pt") as opened:
            names = [name for name in opened.keys() if not _is_finite(opened.get_tensor(name))]  # noqa: SIM118
        known = "\n".join(names)
        memo.put(key, known)
    return known.splitlines()


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel() or tensor.element_size() < 2:
        return True
    return all(bool(edge.isfinite()) for edge in torch.aminmax(tensor))


def some(names: list[str]) -> str:
    """The first of many names, and how many more there are."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
