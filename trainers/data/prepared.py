"""Tokenised data, made once and memory-mapped by every trial that asks for the same.

`prepare_data` is the whole interface: the first call with some data, tokenizer and options tokenises
and stores, later ones open what is stored.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from sweeper.contract.config import Config, DataConfig
from sweeper.contract.json_files import read_json, write_json
from trainers.data.batches import Collator, Examples
from trainers.data.fingerprints import Memo, digest, file_hash, tokenizer_fingerprint
from trainers.data.sources import Split, data_files, read_splits
from trainers.data.tokens import encode_split
from trainers.data.written import is_guessed_otherwise

FORMAT = 1
"""Counts up when the stored form or the tokenisation changes, so that old caches are not read."""
NOT_CONTENT = ("path", "eval_path", "source", "revision", "general_path", "answerable_field")
"""Options that say where the data is, whose content is hashed instead, or that leave its tokens alone."""


@dataclass(frozen=True)
class PreparedData:
    """Both splits of a data set, tokenised."""

    train: Examples
    eval: Examples
    collator: Collator
    fingerprint: str
    """Equal fingerprints mean equal tokens."""
    facts: dict[str, Any]
    """Per split: rows read, sequences and tokens made, rows cut at `max_length`, rows left out
    because no target was left."""


def prepare_data(
    config: Config, tokenizer: PreTrainedTokenizerBase, cache_dir: Path, refresh: bool = False
) -> PreparedData:
    """Open the tokenised data under `cache_dir`, making it first if it is not there.

    `refresh` asks the hub again which commit a data set stands at. Raises DataError.
    """
    revision = _hub_revision(config.data, cache_dir, refresh) if config.data.source == "hub" else None
    fingerprint = data_fingerprint(config.data, tokenizer, revision, cache_dir)
    folder = cache_dir / fingerprint
    if not folder.exists():
        _store(read_splits(config.data, revision, cache_dir), config.data, tokenizer, folder)
    return PreparedData(
        train=Examples(datasets.load_from_disk(str(folder / "train"))),
        eval=Examples(datasets.load_from_disk(str(folder / "eval"))),
        collator=Collator(_pad_id(tokenizer)),
        fingerprint=fingerprint,
        facts=dict(read_json(folder / "facts.json")),
    )


def evaluation_rows(config: Config, cache_dir: Path) -> Split:
    """The evaluation split before it is tokenised. Raises DataError."""
    revision = _hub_revision(config.data, cache_dir, False) if config.data.source == "hub" else None
    return read_splits(config.data, revision, cache_dir)[1]


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Padding is masked and never a target, so any token serves where there is no padding token."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return found if isinstance(found, int) else 0


def data_fingerprint(
    data: DataConfig, tokenizer: PreTrainedTokenizerBase, revision: str | None, cache_dir: Path
) -> str:
    """Fingerprint of the data's content, the tokenizer and the options that shape the tokens."""
    options = {name: value for name, value in vars(data).items() if name not in NOT_CONTENT}
    if data.source == "hub":
        content: list[Any] = [data.path, revision]
    else:
        memo = Memo(cache_dir)
        content = [path and path.is_file() and file_hash(path, memo) for path in data_files(data)]
        if data.source == "file" and any(_is_read_anew(path, memo) for path in data_files(data)):
            content.append("as written")
    return digest([FORMAT, content, options, tokenizer_fingerprint(tokenizer)])


def _is_read_anew(path: Path | None, memo: Memo) -> bool:
    """Whether a file became other text before its fields were read as they were written."""
    if path is None or not path.is_file():
        return False
    key = f"as written:{path.suffix}:{file_hash(path, memo)}"
    known = memo.get(key)
    if known is None:
        known = str(is_guessed_otherwise(path))
        memo.put(key, known)
    return known == "True"


def _hub_revision(data: DataConfig, cache_dir: Path, refresh: bool) -> str | None:
    """Commit of a hub data set: asked once per cache, so that all trials of a study see one."""
    memo, key = Memo(cache_dir), f"hub:{data.path}@{data.revision}"
    known = memo.get(key)
    if known is None or refresh:
        asked = _ask_hub(data)
        if asked is not None and asked != known:
            memo.put(key, asked)
        known = asked or known
    return known or data.revision


def _ask_hub(data: DataConfig) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(data.path, revision=data.revision).sha
    except Exception:  # noqa: BLE001 - of the HTTP library's own; reading the data then says what is wrong
        return None


def _store(
    splits: tuple[Split, Split], data: DataConfig, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Tokenise both splits into `folder`, which appears only when it is complete."""
    train, evaluation = splits
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        facts = {
            "train": encode_split(train, data, tokenizer, temporary / "train", packing=data.packing),
            # never packed: the evaluation loss stays comparable between packed and padded training
            "eval": encode_split(evaluation, data, tokenizer, temporary / "eval", packing=False),
        }
        write_json(temporary / "facts.json", facts)
        os.rename(temporary, folder)
    except OSError:
        if not folder.exists():  # else another process was faster with the same content
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
