"""Tokenises one split: checks its rows, encodes them, cuts or packs them, and stores the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from sweeper.contract.config import DataConfig
from trainers.data.batches import IGNORED_LABEL
from trainers.data.sources import DataError, Split, shorten
from trainers.data.templates import Row, RowError, Shape, Tokens, encode_text, find_shape, shapes

SEQUENCES_PER_TABLE = 1000

Facts = dict[str, int]


def encode_split(
    split: Split, data: DataConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, packing: bool
) -> Facts:
    """Tokenise a split and store it with `datasets`. Columns: `input_ids`, `labels` (int32 lists) and
    `targets`, the number of tokens that the loss counts. Raises DataError."""
    shape = _shape(split, data, tokenizer)
    facts = {"rows": len(split.rows), "sequences": 0, "tokens": 0, "rows_cut": 0, "without_targets": 0}
    encoded = _encoded(split, shape, data, tokenizer)
    sequences = _packed(encoded, data.max_length) if packing else _cut(encoded, data.max_length, facts)
    tables = list(_tables(_with_targets(sequences, facts)))
    if not facts["sequences"]:
        raise DataError(
            [
                f"the {split.name} split must hold at least one target within data.max_length="
                f"{data.max_length}, but its {facts['rows']} rows have none: raise data.max_length or set "
                "data.completion_only_loss=false"
            ]
        )
    datasets.Dataset(pa.concat_tables(tables)).save_to_disk(str(folder))
    return facts


def encode_texts(
    texts: Iterable[str], data: DataConfig, tokenizer: PreTrainedTokenizerBase
) -> datasets.Dataset | None:
    """Running texts in memory, in the columns of `encode_split`, the shortest first so that batches hold
    little padding. None when no text has a target."""
    rows = sorted(
        (encode_text({data.text_field: text}, data, tokenizer) for text in texts), key=lambda row: len(row[0])
    )
    facts = dict.fromkeys(("rows_cut", "sequences", "tokens", "without_targets"), 0)
    tables = list(_tables(_with_targets(_cut(rows, data.max_length, facts), facts)))
    return datasets.Dataset(pa.concat_tables(tables)) if tables else None


def _shape(split: Split, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Shape:
    shape = find_shape(data, split.rows.column_names)
    if shape is None:
        raise DataError([_missing_fields(split, data)])
    if shape.name == "chat" and not tokenizer.chat_template:
        raise DataError(
            [
                f"chat messages need a tokenizer with a chat template, but {tokenizer.name_or_path!r} has "
                "none: use a chat model's tokenizer, or data with prompt and completion"
            ]
        )
    return shape


def _missing_fields(split: Split, data: DataConfig) -> str:
    options = {
        "chat": "data.messages_field",
        "prompt and completion": "data.prompt_field and data.completion_field",
        "text": "data.text_field",
    }
    needed = "; or ".join(
        f"{' and '.join(map(repr, shape.fields))} ({options[shape.name]})" for shape in shapes(data)
    )
    found = ", ".join(map(repr, split.rows.column_names))
    return (
        f"the {split.name} split must have the fields {needed}, but {split.origin} has {found}: "
        "name its fields with these options"
    )


def _encoded(
    split: Split, shape: Shape, data: DataConfig, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Tokens]:
    """Token ids and labels of each row. Raises DataError with every row that cannot be used."""
    problems: dict[int, RowError] = {}
    others = [other for other in shapes(data) if other.name != shape.name]
    for row, values in enumerate(split.rows):
        try:
            _check_row(values, shape, others)
            yield shape.encode(values, data, tokenizer)
        except RowError as error:
            problems[row] = error
    if problems:
        places = split.places(list(problems))
        found = [f"{place}: {error}" for place, error in zip(places, problems.values(), strict=True)]
        raise DataError(shorten(found))


def _check_row(values: Row, shape: Shape, others: Iterable[Shape]) -> None:
    missing = [field for field in shape.fields if values[field] is None]
    if not missing:
        return
    other = next((other for other in others if _holds(values, other)), None)
    if other is not None:
        raise RowError(
            f"all rows must have one shape, but this one is {other.name} where others are {shape.name}: "
            "keep one of the two in a data set"
        )
    raise RowError(f"field {missing[0]!r} must be filled, but is missing: fill it or drop the row")


def _holds(values: Row, shape: Shape) -> bool:
    return all(values.get(field) is not None for field in shape.fields)


def _cut(encoded: Iterable[Tokens], max_length: int, facts: Facts) -> Iterator[Tokens]:
    for ids, labels in encoded:
        facts["rows_cut"] += len(ids) > max_length
        yield ids[:max_length], labels[:max_length]


def _packed(encoded: Iterable[Tokens], max_length: int) -> Iterator[Tokens]:
    """The rows as one stream, cut every `max_length` tokens; the rest is the last sequence.

    Rows end with the end-of-sequence token, chats as their template ends them.
    Attention reaches across rows within a sequence.
    """
    ids: list[int] = []
    labels: list[int] = []
    for row_ids, row_labels in encoded:
        ids += row_ids
        labels += row_labels
        while len(ids) >= max_length:
            yield ids[:max_length], labels[:max_length]
            del ids[:max_length], labels[:max_length]
    if ids:
        yield ids, labels


def _with_targets(sequences: Iterable[Tokens], facts: Facts) -> Iterator[tuple[list[int], list[int], int]]:
    """Leave out sequences on which there would be no loss; count the targets of the others."""
    for ids, labels in sequences:
        # the first token is never predicted: labels are shifted by one in the loss
        targets = sum(label != IGNORED_LABEL for label in labels[1:])
        if targets:
            facts["sequences"] += 1
            facts["tokens"] += len(ids)
            yield ids, labels, targets
        else:
            facts["without_targets"] += 1


def _tables(sequences: Iterator[tuple[list[int], list[int], int]]) -> Iterator[pa.Table]:
    while chunk := list(islice(sequences, SEQUENCES_PER_TABLE)):
        ids, labels, targets = zip(*chunk, strict=True)
        yield pa.table(
            {
                "input_ids": _lists(ids),
                "labels": _lists(labels),
                "targets": pa.array(targets, type=pa.int32()),
            }
        )


def _lists(rows: tuple[list[int], ...]) -> pa.Array:
    return pa.array([np.asarray(row, dtype=np.int32) for row in rows], type=pa.list_(pa.int32()))
