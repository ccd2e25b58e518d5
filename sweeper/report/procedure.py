"""What the strategy decided and why: its sentences by stage, and the effects that it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.analysis.open import OpenStudy
from sweeper.contract.json_files import UnreadableFileError, read_json
from sweeper.contract.measurements import MAIN_METRICS, METRICS
from sweeper.report.content import Section, Table
from sweeper.study.masking import mask
from sweeper.study.units import UNKNOWN, text

TITLE = "How the search went"
COMPARED = ("memory_vs_fp32", "speed_vs_fp32", "memory_vs_16bit", "speed_vs_16bit")
HEADINGS = ("less memory than fp32", "speed of fp32", "less memory than 16 bit", "speed of 16 bit")


def procedure(study: OpenStudy) -> Section | None:
    """The section; None for a strategy that decided nothing, as a grid."""
    try:
        decisions = read_json(study.folder.decisions) if study.folder.decisions.exists() else []
    except UnreadableFileError as error:
        return Section("procedure", TITLE, [str(error)])
    if not decisions:
        return None
    rows = [(str(item["stage"]), mask(str(item["text"]))) for item in decisions]
    tables = [Table(("stage", "decision"), rows, frozenset({"stage", "decision"}), "Each decision")]
    tables += [_effects(item["effects"]) for item in decisions if item.get("effects")]
    lines = ["What the strategy decided, in order, and what it went by."]
    if len(tables) > 1:
        lines.append("The effects: one row per added method, against the plain cells of fp32 and of 16 bit.")
    return Section("procedure", TITLE, lines, tables=tables, open=True)


def _effects(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = [
        (
            str(row["added"]),
            str(row["trial"]),
            *(text(metric, row.get(metric)) for metric in MAIN_METRICS),
            *(_times(row.get(name)) for name in COMPARED),
        )
        for row in rows
    ]
    headings = ("added", "trial", *(METRICS[metric].heading for metric in MAIN_METRICS), *HEADINGS)
    return Table(headings, shown, frozenset({"added"}), "The cumulative effect of the methods")


def _times(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{ratio:.2f}x"
