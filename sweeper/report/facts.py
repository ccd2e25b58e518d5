"""The sections on what failed and under what everything ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweeper.analysis.open import OpenStudy
from sweeper.contract.trial import Outcome
from sweeper.report.content import Section, Table
from sweeper.study.masking import mask
from sweeper.study.units import UNKNOWN

MOST_NAMED = 6
"""Trials named per reason; the records have all."""


def failures(study: OpenStudy) -> Section:
    """Every trial that did not complete, by outcome and reason."""
    title = "What did not work"
    groups: dict[tuple[str, str], list[int]] = {}
    cells: dict[tuple[str, str], str] = {}
    for record in study.trials:
        result = record.result
        if result is None or result.outcome is Outcome.COMPLETED:
            continue
        key = result.outcome.value.replace("_", " "), mask(result.reason or UNKNOWN)
        groups.setdefault(key, []).append(record.number)
        cells.setdefault(key, record.label)
    if not groups:
        return Section("failures", title, ["Every trial that ended has completed."])
    rows = [
        (outcome, str(len(numbers)), _named(numbers), cells[outcome, why], why)
        for (outcome, why), numbers in groups.items()
    ]
    headings = ("outcome", "trials", "numbers", "first cell", "why")
    table = Table(
        headings, rows, frozenset({"outcome", "numbers", "first cell", "why"}), "By outcome and reason"
    )
    lines = [
        "Failed trials are results too. The output of each lies in its folder "
        f"(`{study.folder.trials}/NUMBER/stderr.log`)."
    ]
    return Section("failures", title, lines, tables=[table], open=True)


def _named(numbers: list[int]) -> str:
    more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
    return ", ".join(map(str, numbers[:MOST_NAMED])) + more


def environment(study: OpenStudy) -> Section:
    """What the judged trials ran under; a value that differs between them is shown with each value."""
    seen: dict[str, dict[str, None]] = {}
    left_out = {item.record.number for item in study.choice.ranking.left_out}
    for record in study.trials:
        if record.result is not None and record.number not in left_out:
            for name, value in _flat(record.result.environment):
                seen.setdefault(name, {})[UNKNOWN if value is None else str(value)] = None
    rows = [("sweeper", study.record.sweeper_version or UNKNOWN), ("command", study.record.command)]
    rows += [(name, " | ".join(values)) for name, values in seen.items()]
    mixed = [name for name, values in seen.items() if len(values) > 1]
    lines = [f"Differs between trials: {', '.join(mixed)}. Compare their speeds with care."] if mixed else []
    table = Table(("what", "value"), rows, frozenset({"what", "value"}), "Versions, device and host")
    return Section("environment", "Environment", lines, tables=[table])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value
