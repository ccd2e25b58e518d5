"""What a report is made of: plain values that HTML and Markdown write each in its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of text under headings."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: frozenset[str] = frozenset()
    """Headings of columns of words; the others are numbers and stand to the right."""
    title: str = "The figures as a table"
    best: int | None = None
    """Index of the row of the best cell."""


@dataclass(frozen=True)
class Figure:
    """A drawing in Plotly's words, with colours by their names in `figures.INK`."""

    key: str
    title: str
    """What it shows, for a screen reader and as its heading."""
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int
    """In CSS pixels."""


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    open: bool = False
    """Whether the tables are shown at once instead of on a click."""


@dataclass(frozen=True)
class Tile:
    """One figure of the verdict, in large type."""

    value: str
    unit: str
    name: str
    notes: list[str]


@dataclass(frozen=True)
class Report:
    """The whole report."""

    study: str
    subtitle: str
    headline: str
    chips: list[tuple[str, str]]
    """Settings of the best cell."""
    rule: str
    tiles: list[Tile]
    reasons: list[str]
    command: str | None
    sections: list[Section]
    records: list[dict[str, Any]]
    """Every trial, flat: what `export` gives."""
