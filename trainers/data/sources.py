"""Rows of a data set, from a file, the hub or the embedded one, and where each row stands.

Mistakes are `DataError`: all that were found, each saying where.
"""

from __future__ import annotations

import dataclasses
import glob
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError

from sweeper.contract.config import DataConfig
from trainers.data.places import (
    csv_records,
    holds_nothing,
    malformed_lines,
    row_lines,
    undecodable_line,
    where,
)
from trainers.data.written import JsonRows, read_json_rows

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
"""File name extension -> reader of the `datasets` library."""
HOLD_OUT_SEED = 0
MAX_SHOWN = 10
"""Problems of one kind that are listed; the rest is counted."""


class DataError(ValueError):
    """The data cannot be trained on. `problems` says why, each as `place and rule, but what: remedy`."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def shorten(problems: Sequence[str]) -> list[str]:
    """The first problems, and how many there are besides."""
    rest = len(problems) - MAX_SHOWN
    return [
        *problems[:MAX_SHOWN],
        *([f"… and {rest} more of the same kind: correct them too"] if rest > 0 else []),
    ]


def data_files(data: DataConfig) -> tuple[Path, Path | None]:
    """The training file and the evaluation file, if it is separate, of a data set in files."""
    if data.source == "embedded":
        from trainers import embedded

        return Path(embedded.data_path("train")), Path(embedded.data_path("eval"))
    return Path(data.path), Path(data.eval_path) if data.eval_path else None


@dataclass(frozen=True)
class Split:
    """The rows of one split, and where they come from."""

    name: str
    rows: datasets.Dataset | JsonRows
    path: Path | None
    """File of the rows; None for the hub."""
    numbers: list[int] | None = None
    """Number in the file of each row, from 0, where they differ."""

    @property
    def origin(self) -> str:
        """The file, or words for what has none."""
        return str(self.path) if self.path else "the data set"

    def places(self, rows: Sequence[int]) -> list[str]:
        """Where rows of this split stand, with the lines of a text file."""
        numbers = rows if self.numbers is None else [self.numbers[row] for row in rows]
        if self.path is None:
            return [f"{self.name} split, row {number + 1}" for number in numbers]
        lines = row_lines(self.path)
        return [
            where(self.path, lines[number]) if number < len(lines) else f"{self.path}, row {number + 1}"
            for number in numbers
        ]


def read_splits(data: DataConfig, revision: str | None, cache_dir: Path) -> tuple[Split, Split]:
    """Training and evaluation rows. Raises DataError."""
    train, evaluation = _read(data, revision, cache_dir)
    for split in (train, evaluation):
        if split is not None and not len(split.rows):
            raise DataError([f"a split must hold examples, but {split.origin} has none: fill it"])
    if evaluation is None:
        train, evaluation = _held_out(train, data.eval_fraction)
    return _first(train, data.max_train_examples), _first(evaluation, data.max_eval_examples)


def _read(data: DataConfig, revision: str | None, cache_dir: Path) -> tuple[Split, Split | None]:
    if data.source == "hub":
        evaluation = data.eval_split and Split("eval", _read_hub(data, revision, data.eval_split), None)
        return Split("train", _read_hub(data, revision, data.train_split), None), evaluation or None
    path, eval_path = data_files(data)
    train = Split("train", read_file(path, cache_dir), path)
    return train, Split("eval", read_file(eval_path, cache_dir), eval_path) if eval_path else None


def _held_out(split: Split, fraction: float) -> tuple[Split, Split]:
    """Hold a share of the rows out, the same for every `train.seed`."""
    total = len(split.rows)
    count = int(total * fraction)
    if not 0 < count < total:
        raise DataError(
            [
                "data.eval_fraction must leave examples on both sides, but "
                f"{fraction} of {total} examples is {count}: change it or set data.eval_path"
            ]
        )
    numbers = list(range(total))
    random.Random(HOLD_OUT_SEED).shuffle(numbers)
    parts = {"train": sorted(numbers[count:]), "eval": sorted(numbers[:count])}
    train, evaluation = (
        Split(name, split.rows.select(part), split.path, part) for name, part in parts.items()
    )
    return train, evaluation


def _first(split: Split, count: int | None) -> Split:
    if count is None or count >= len(split.rows):
        return split
    return dataclasses.replace(split, rows=split.rows.select(range(count)))


def _read_hub(data: DataConfig, revision: str | None, split: str) -> datasets.Dataset:
    try:
        return datasets.load_dataset(data.path, data.name, revision=revision, split=split)
    except (ValueError, OSError) as error:
        raise DataError(
            [
                f"the hub data set must be readable, but split {split!r} of data.path={data.path!r}, "
                f"data.name={data.name!r} gives {' '.join(str(error).split())!r}: correct these options or "
                "make it available offline"
            ]
        ) from error


def read_file(path: Path, cache_dir: Path) -> datasets.Dataset | JsonRows:
    """Rows of a file, text as it was written. Raises DataError with line numbers when it cannot be read."""
    reader = READERS.get(path.suffix)
    if reader is None:
        known = ", ".join(READERS)
        raise DataError([f"a data file must end in one of {known}, but got {path}: rename or convert it"])
    if not path.is_file():
        raise DataError([f"the data file must exist, but got {path}: correct the path"])
    if path.stat().st_size == 0:
        raise DataError([_no_examples(path)])
    if reader != "parquet":
        refuse_undecodable(path)
    rows = read_json_rows(path) if reader == "json" else None
    if rows:
        return rows
    try:
        return datasets.load_dataset(
            reader,
            data_files=glob.escape(str(path.resolve())),
            split="train",
            cache_dir=str(cache_dir / "sources"),
            **(_text_columns(path) if reader == "csv" else {}),
        )
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise DataError(_reading_problems(path, error)) from error


def _text_columns(path: Path) -> dict[str, Any]:
    """Options under which the CSV reader takes every field for text, and only an empty one for missing."""
    _, header = next(csv_records(path), (0, []))
    features = datasets.Features({name: datasets.Value("string") for name in _column_names(header)})
    return {"features": features, "keep_default_na": False, "na_values": [""]}


def _column_names(header: Sequence[str]) -> list[str]:
    """Names of the columns as `pandas.read_csv` makes them of empty and of repeated ones."""
    names: list[str] = []
    for number, field in enumerate(header):
        name, repeats = field or f"Unnamed: {number}", 0
        while (f"{name}.{repeats}" if repeats else name) in names:
            repeats += 1
        names.append(f"{name}.{repeats}" if repeats else name)
    return names


def refuse_undecodable(path: Path) -> None:
    """Raise DataError with the first line of a text file that is not UTF-8."""
    line = undecodable_line(path)
    if line is not None:
        raise DataError([f"{where(path, line)}: a text file must be UTF-8, but this line is not: convert it"])


def _reading_problems(path: Path, error: Exception) -> list[str]:
    found = [f"{where(path, line)}: {problem}: correct it" for line, problem in malformed_lines(path)]
    if found:
        return shorten(found)
    if holds_nothing(path):
        return [_no_examples(path)]
    cause = error.__cause__ or error
    said = " ".join(str(cause).split())
    return [f"{path} must be a well-formed {path.suffix} file, but reading it gives {said!r}: correct it"]


def _no_examples(path: Path) -> str:
    return f"a data file must hold examples, but {path} has none: fill it"
