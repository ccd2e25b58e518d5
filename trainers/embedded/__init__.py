"""The embedded model and data, which every fresh install has: where they lie.

`python -m trainers.embedded.build` makes all of it again. Standard library only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).resolve().parent
"""Folder of this package, with the data beside the code that made it."""

SPLITS = ("train", "eval")


def model_path() -> Path:
    """Folder of the tiny pre-trained Llama and its tokenizer, as `save_pretrained` writes it."""
    return FOLDER / "tiny"


def data_path(split: Literal["train", "eval"]) -> Path:
    """JSON Lines of one split of the railway dispatch set: `prompt`, `completion`, `answerable`.

    Raises ValueError for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, but got {split!r}: name one of them")
    return FOLDER / "transport" / f"{split}.jsonl"


def general_path() -> Path:
    """JSON Lines (`text`) of general English that the model was not pre-trained on, to measure what a
    fine-tune makes it forget."""
    return FOLDER / "general" / "eval.jsonl"
