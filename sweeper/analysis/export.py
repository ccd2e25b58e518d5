"""All trials of a study as flat records, for a spreadsheet, pandas or a database.

One row per trial, cancelled ones too. Measurements keep their names and units (bytes, seconds);
`left_out` says why a trial is not
judged, where one is not; `config.…` holds every option as resolved, `environment.…` what the trial ran under.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.analysis.choice import Choice
from sweeper.study.masking import mask_all
from sweeper.study.records import TrialRecord

Row = dict[str, Any]


def flat(trials: Sequence[TrialRecord], choice: Choice) -> list[Row]:
    """One row per trial; every row has every column, None where nothing is known."""
    places = {
        trial.number: (ranked.rank, "; ".join(ranked.violations) or None)
        for ranked in choice.ranking.trials
        for trial in ranked.cell.trials
    }
    left_out = {item.record.number: item.why for item in choice.ranking.left_out}
    rows: list[Row] = [mask_all(dict(_row(record, places, left_out))) for record in trials]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def _row(
    record: TrialRecord,
    places: Mapping[int, tuple[int | None, str | None]],
    left_out: Mapping[int, str],
) -> Iterator[tuple[str, Any]]:
    rank, violations = places.get(record.number, (None, None))
    result = record.result.to_json() if record.result else {}
    yield "study", record.spec.study
    yield "trial", record.number
    yield "generation", record.spec.generation
    yield "cell", record.label
    yield "outcome", result.get("outcome")
    yield "reason", result.get("reason")
    yield "rank", rank
    yield "violations", violations
    if record.number in left_out:
        yield "left_out", left_out[record.number]
    yield from result.get("measurements", {}).items()
    yield from record.derived().items()
    yield "started_at", result.get("started_at")
    yield "ended_at", result.get("ended_at")
    yield "key", record.spec.key
    yield "folder", str(record.folder.path)
    yield from _flattened(record.spec.config, "config.")
    yield from _flattened(result.get("environment", {}), "environment.")


def _flattened(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value) if isinstance(value, list | tuple) else value


def _json(rows: Sequence[Row]) -> bytes:
    return (json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(
        errors="surrogateescape"
    )


def _csv(rows: Sequence[Row]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode(errors="surrogateescape")


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(rows[0]) if rows else []
    columns = {name: _one_type([row[name] for row in rows]) for name in names}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def _one_type(values: list[Any]) -> list[Any]:
    """A column of one type: what is mixed (`steps` beside `1k steps`) is written as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


FORMATS: dict[str, Callable[[Sequence[Row]], bytes]] = {"csv": _csv, "parquet": _parquet, "json": _json}


def write(rows: Sequence[Row], name: str, path: Path) -> None:
    """Write the rows in a format of `FORMATS`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FORMATS[name](rows))
