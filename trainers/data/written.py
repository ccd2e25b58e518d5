"""Rows of text files as they were written.

The readers of `datasets` guess types: 00042 becomes 42, 1e2 becomes 100.0, a quoted date a datetime, NA
nothing. Here a field of CSV is text, a string of JSON stays one, and a number of JSON keeps its spelling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.data.places import ENCODING, csv_records, undecodable_line

SPACE = re.compile(r"\s*")
WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")
"""Whole numbers that every reader shows as they were written: without leading zeros, within 64 bits."""
DATE = re.compile(r"\d{4}-\d\d-\d\d")
"""How strings begin that the JSON reader of Arrow takes for a time."""
GUESSED = frozenset(
    "nan null none n/a na <na> #n/a #na -nan -1.#ind 1.#qnan 1.#ind -1.#qnan #n/a n/a true false".split()
)
"""Fields, in lower case, that `pandas.read_csv` takes for missing values or truth values."""


class WrittenNumber(float):
    """A number of a JSON file that is shown as it was written."""

    def __new__(cls, written: str) -> WrittenNumber:
        """Keep the spelling beside the value."""
        made = super().__new__(cls, written)
        made.written = written
        return made

    written: str

    def __str__(self) -> str:
        return self.written


def _whole(written: str) -> int | WrittenNumber:
    return int(written) if WHOLE.fullmatch(written) else WrittenNumber(written)


DECODER = json.JSONDecoder(parse_float=WrittenNumber, parse_int=_whole, parse_constant=WrittenNumber)


class JsonRows:
    """Rows of a JSON file: objects, or their texts, which are read when they are asked for."""

    def __init__(self, rows: Sequence[str | Mapping[str, Any]], column_names: list[str]) -> None:
        self._rows = rows
        self.column_names = column_names
        """Every field that some row has."""

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each row with all columns, those that it lacks as None."""
        for row in self._rows:
            values = DECODER.decode(row) if isinstance(row, str) else row
            yield {name: values.get(name) for name in self.column_names}

    def select(self, numbers: Iterable[int]) -> JsonRows:
        """Some of the rows, with the columns of all."""
        return JsonRows([self._rows[number] for number in numbers], self.column_names)


def read_json_rows(path: Path) -> JsonRows | None:
    """Rows of a file with an array of objects, or with objects one after another. None for anything else."""
    text = path.read_text(ENCODING).strip()
    columns: dict[str, None] = {}
    rows: list[str | Mapping[str, Any]] = []
    try:
        for value, written in _values(text):
            if not isinstance(value, dict):
                return None
            columns.update(dict.fromkeys(value))
            rows.append(written or value)
    except json.JSONDecodeError:
        return None
    if len(rows) == 1 and text.startswith("{") and "\n" in text:
        return None  # one object over several lines holds columns or tables, not a row
    return JsonRows(rows, list(columns))


def _values(text: str) -> Iterator[tuple[Any, str]]:
    """The values of a text, each with its own text unless they are the items of an array."""
    if text.startswith("["):
        yield from ((value, "") for value in DECODER.decode(text))
        return
    position = 0
    while position < len(text):
        value, end = DECODER.raw_decode(text, position)
        yield value, text[position:end]
        found = SPACE.match(text, end)
        position = found.end() if found else end


def is_guessed_otherwise(path: Path) -> bool:
    """Whether the readers of `datasets`, which were used before, make other texts of a file.

    Such data gets another fingerprint, so that what was tokenised or measured before is not taken for it.
    """
    if path.suffix not in (".csv", ".json", ".jsonl") or undecodable_line(path) is not None:
        return False
    if path.suffix == ".csv":
        records = csv_records(path)
        _, header = next(records, (0, []))
        return _is_guessed_table(len(header), (fields for _, fields in records))
    rows = read_json_rows(path)
    return rows is not None and any(_is_guessed_value(value) for row in rows for value in row.values())


def _is_guessed_table(width: int, records: Iterable[Sequence[str]]) -> bool:
    """Whole numbers count when any field is empty: a column of both became one of fractions."""
    has_gap = has_whole = False
    for fields in records:
        if any(map(_is_guessed_field, fields)):
            return True
        has_gap = has_gap or len(fields) < width or "" in fields
        has_whole = has_whole or any(map(WHOLE.fullmatch, fields))
    return has_gap and has_whole


def _is_guessed_field(field: str) -> bool:
    if not field or WHOLE.fullmatch(field):
        return False
    try:
        float(field)
    except ValueError:
        return field.lower() in GUESSED
    return True


def _is_guessed_value(value: Any, depth: int = 0) -> bool:
    """A nested object counts when it lies within a message: columns fill it with nulls."""
    if isinstance(value, dict):
        return depth > 1 or any(_is_guessed_value(item, depth + 1) for item in value.values())
    if isinstance(value, list):
        return any(_is_guessed_value(item, depth + 1) for item in value)
    return isinstance(value, float) or (isinstance(value, str) and DATE.match(value) is not None)
