"""The report as one HTML file: styles, script, data and Plotly inside, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from functools import cache
from html import escape
from importlib import resources
from string import Template
from typing import Any

from sweeper.report.content import Figure, Report, Section, Table, Tile

ROWS_AT_FIRST = 25
"""Rows of a long table that are shown before one asks for all."""


def to_html(report: Report) -> str:
    """The whole page."""
    drawings = [figure for section in report.sections for figure in section.figures]
    return Template(_file("page.html")).substitute(
        title=escape(f"{report.study} – sweeper"),
        css=_file("page.css"),
        script=_file("page.js"),
        study=escape(report.study),
        subtitle=escape(report.subtitle),
        headline=escape(report.headline),
        chips="".join(_chips(report.chips)),
        rule=escape(report.rule),
        tiles="".join(map(_tile, report.tiles)),
        reasons="".join(f"<li>{_inline(reason)}</li>" for reason in report.reasons),
        command=_command(report.command),
        navigation="".join(f'<a href="#{item.key}">{item.key.capitalize()}</a>' for item in report.sections),
        sections="".join(map(_section, report.sections)),
        figures=_data({figure.key: {"data": figure.data, "layout": figure.layout} for figure in drawings}),
        records=_data({"study": report.study, "rows": report.records}),
        plotly=_plotly() if drawings else "",
    )


def _file(name: str) -> str:
    return (resources.files("sweeper.report") / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """plotly.min.js, packed: 4.8 MB of text become 2 MB, which the browser unpacks in an instant."""
    import plotly

    text = (resources.files(plotly) / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(text, 6, mtime=0)).decode()


def _data(value: Any) -> str:
    """JSON that may stand in a script element: no `<` in it can end that element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _inline(text: str) -> str:
    """Escaped text in which `code` stays code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _chips(settings: list[tuple[str, str]]) -> Iterator[str]:
    for key, value in settings:
        yield f'<span class="chip"><span>{escape(key)}</span><b>{escape(value)}</b></span>'


def _tile(tile: Tile) -> str:
    note = "".join(f'<p class="note">{escape(line)}</p>' for line in tile.notes)
    value = f'<p class="value">{escape(tile.value)}<span>{escape(tile.unit)}</span></p>'
    return f'<div class="tile"><p class="name">{escape(tile.name)}</p>{value}{note}</div>'


def _command(command: str | None) -> str:
    if command is None:
        return ""
    button = '<button type="button" class="copy">Copy</button>'
    return f'<div class="command"><pre><code>{escape(command)}</code></pre>{button}</div>'


def _section(section: Section) -> str:
    text = "".join(f"<p>{_inline(line)}</p>" for line in section.text)
    drawn = "".join(map(_figure, section.figures))
    wide = {1: " single", 2: " pairs", 4: " pairs"}.get(len(section.figures), "")
    figures = f'<div class="figures{wide}">{drawn}</div>' if drawn else ""
    tables = "".join(_table(table, section.open) for table in section.tables)
    title = f'<h2><a href="#{section.key}">{escape(section.title)}</a></h2>'
    return f'<section id="{section.key}">{title}{text}{figures}{tables}</section>'


def _figure(figure: Figure) -> str:
    title = f"<figcaption>{escape(figure.title)}</figcaption>"
    label = f"{escape(figure.title)}; the table below has its figures"
    box = f'id="figure-{figure.key}" style="height:{figure.height}px" role="img" aria-label="{label}"'
    return f'<figure>{title}<div class="plot" {box}></div></figure>'


def _table(table: Table, is_open: bool) -> str:
    head = "".join(f"<th{_side(table, name)} scope=col>{escape(name)}</th>" for name in table.headings)
    body = "".join(_row(table, row, index) for index, row in enumerate(table.rows))
    long = f' data-rows="{ROWS_AT_FIRST}"' if len(table.rows) > ROWS_AT_FIRST else ""
    rows = f"<table{long}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    summary = f'<summary>{escape(table.title)}</summary><div class="scroll" tabindex="0">{rows}</div>'
    return f"<details{' open' if is_open else ''}>{summary}</details>"


def _row(table: Table, row: tuple[str, ...], index: int) -> str:
    cells = zip(table.headings, row, strict=True)
    inner = "".join(f"<td{_side(table, name)}>{escape(cell)}</td>" for name, cell in cells)
    return f"<tr{' class=best' if index == table.best else ''}>{inner}</tr>"


def _side(table: Table, name: str) -> str:
    return " class=l" if name in table.left else ""
