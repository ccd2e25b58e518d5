"""Where the rows of a data file stand, and which of its lines cannot be read.

What the readers of `datasets` make of a file carries no positions, so the file is read once more when there
is a mistake to be placed.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BETWEEN = re.compile(r"[\s,]*")
"""What may stand between two values of a JSON file."""
ENCODING = "utf-8-sig"
"""UTF-8, a byte order mark left out as the readers of `datasets` do."""


def where(path: Path, line: int) -> str:
    """A place in a file, in the form that editors and terminals link."""
    return f"{path}:{line}"


def undecodable_line(path: Path) -> int | None:
    """The first line of a text file that is not UTF-8."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None


def row_lines(path: Path) -> list[int]:
    """The line at which each row begins, as far as the format tells: rows of Parquet have none."""
    find = ROW_LINES.get(path.suffix)
    return list(find(path)) if find else []


def holds_nothing(path: Path) -> bool:
    """Whether a readable text file has no rows; `datasets` takes that for an error in reading."""
    return path.suffix in ROW_LINES and not row_lines(path)


def malformed_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file that do not hold what its format asks for, and why."""
    if path.suffix == ".csv":
        yield from _long_records(path)
    elif path.suffix == ".jsonl" or _is_json_lines(path):
        for number, line in _filled_lines(path):
            problem = _line_problem(line)
            if problem is not None:
                yield number, problem
    elif path.suffix == ".json":
        try:
            json.loads(path.read_text(ENCODING))
        except json.JSONDecodeError as error:
            yield error.lineno, f"the file must be JSON, but {error.msg} at column {error.colno}"


def _is_json_lines(path: Path) -> bool:
    """Whether a `.json` file begins with an object on a line of its own, which `datasets` reads too."""
    first = next(_filled_lines(path), None) if path.suffix == ".json" else None
    return first is not None and _line_problem(first[1]) is None


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding=ENCODING) as lines:
        yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _line_problem(line: str) -> str | None:
    rule, shown = "each line must be a JSON object", repr(line.strip()[:80])
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        return f"{rule}, but {error.msg} at column {error.colno} of {shown}"
    return None if isinstance(value, dict) else f"{rule}, but got {shown}"


def _long_records(path: Path) -> Iterator[tuple[int, str]]:
    """Shorter ones are filled up by the reader."""
    records = csv_records(path)
    _, header = next(records, (0, []))
    for line, fields in records:
        if len(fields) > len(header):
            rule = f"a row must have at most the {len(header)} fields of the header"
            yield line, f"{rule}, but has {len(fields)} (put quotes around fields with commas)"


def csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """First line and fields of each record, the header included. Blank lines are none, as for pandas.

    Ends at what the csv module cannot read, such as a field above its limit of 131072 characters.
    """
    with path.open(encoding=ENCODING, newline="") as file:
        reader, line = csv.reader(file), 1
        try:
            for fields in reader:
                if fields and (len(fields) > 1 or not fields[0].isspace()):
                    yield line, fields
                line = reader.line_num + 1
        except csv.Error:
            return


def _csv_row_lines(path: Path) -> Iterator[int]:
    records = csv_records(path)
    next(records, None)
    return (line for line, _ in records)


def _json_row_lines(path: Path) -> Iterator[int]:
    text = path.read_text(ENCODING)
    line, last = 1, 0
    for position in _json_positions(text):
        line, last = line + text.count("\n", last, position), position
        yield line


def _json_positions(text: str) -> Iterator[int]:
    """Where each value of an array, or of several values in a row, begins. Ends at a mistake."""
    decode = json.JSONDecoder().raw_decode
    position = _after_filler(text, 0)
    if text.startswith("[", position):
        position = _after_filler(text, position + 1)
    while position < len(text) and text[position] != "]":
        try:
            _, end = decode(text, position)
        except json.JSONDecodeError:
            return
        yield position
        position = _after_filler(text, end)


def _after_filler(text: str, position: int) -> int:
    found = BETWEEN.match(text, position)
    return found.end() if found else position


ROW_LINES: dict[str, Callable[[Path], Iterator[int]]] = {
    ".csv": _csv_row_lines,
    ".json": _json_row_lines,
    ".jsonl": _json_row_lines,
}
"""Extension of a text format -> the lines at which its rows begin."""
