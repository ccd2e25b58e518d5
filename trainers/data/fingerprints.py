"""Content hashes of models, tokenizers and data files: equal fingerprints mean equal inputs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from sweeper.contract.config import ModelConfig
from sweeper.contract.json_files import UnreadableFileError, read_json, write_json

LENGTH = 32
"""Hexadecimal digits kept of a SHA-256."""


def digest(value: Any) -> str:
    """Fingerprint of a JSON value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


class Memo:
    """Facts that are slow to find, kept in one JSON file of the cache folder under a key."""

    def __init__(self, cache_dir: Path) -> None:
        self._path = cache_dir / "fingerprints.json"

    def get(self, key: str) -> str | None:
        """What is kept under `key`, or None."""
        value = self._read().get(key)
        return str(value) if value is not None else None

    def put(self, key: str, value: str) -> None:
        """Two writers at once may lose one entry; it is found anew then."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, {**self._read(), key: value})

    def _read(self) -> dict[str, Any]:
        """What is kept; nothing where the file cannot be read: all of it can be found anew."""
        try:
            kept = read_json(self._path)
        except (FileNotFoundError, UnreadableFileError):
            return {}
        return dict(kept) if isinstance(kept, dict) else {}


def file_hash(path: Path, memo: Memo) -> str:
    """Hash of a file's content; read again only when its size or modification time changed."""
    stat = path.stat()
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    known = memo.get(key)
    if known is not None:
        return known
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[:LENGTH]
    memo.put(key, found)
    return found


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint of everything that turns text into tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else tokenizer.get_vocab()
    return digest([type(tokenizer).__name__, rules, tokenizer.special_tokens_map, tokenizer.chat_template])


def model_fingerprint(model: ModelConfig, path: str, cache_dir: Path) -> str | None:
    """Fingerprint of a model: its files' content, or its commit on the hub (None if unknown)."""
    folder = Path(path)
    if folder.is_dir():
        memo = Memo(cache_dir)
        names = ("*.safetensors", "*.json", "*.py")
        files = sorted(file for name in names for file in folder.glob(name))
        return digest([(file.name, file.stat().st_size, file_hash(file, memo)) for file in files])
    config = AutoConfig.from_pretrained(
        path, revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    commit = getattr(config, "_commit_hash", None)
    return digest([path, commit]) if commit else None
