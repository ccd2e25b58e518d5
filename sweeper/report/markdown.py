"""The report as Markdown: its words and tables, for a pull request, a wiki or MLflow."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.report.content import Report, Section, Table
from sweeper.study.writing import markdown_table

MOST_ROWS = 60
"""Longer tables are cut: the page and `export` have every row."""


def to_markdown(report: Report) -> str:
    """The whole report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# Study {report.study}: {report.headline}"
    yield f"\n{report.subtitle}\n"
    if report.chips:
        yield f"**{' '.join(f'`{key}={value}`' for key, value in report.chips)}**\n"
    yield f"Rule: {report.rule}\n"
    if report.tiles:
        yield from (
            f"- {tile.name}: **{tile.value}** {tile.unit} {_bracketed('; '.join(tile.notes))}".rstrip()
            for tile in report.tiles
        )
        yield ""
    yield from (f"- {reason}" for reason in report.reasons)
    if report.command:
        yield f"\n    {report.command}"
    for section in report.sections:
        yield from _section(section)


def _bracketed(note: str) -> str:
    return f"({note})" if note else ""


def _section(section: Section) -> Iterator[str]:
    yield f"\n## {section.title}\n"
    yield from section.text
    for table in section.tables:
        yield f"\n{table.title}:\n" if len(section.tables) > 1 else ""
        yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    right = [name for name in table.headings if name not in table.left]
    yield from markdown_table(table.headings, table.rows[:MOST_ROWS], right)
    if len(table.rows) > MOST_ROWS:
        yield f"\n… and {len(table.rows) - MOST_ROWS} more rows in `report.html`."
