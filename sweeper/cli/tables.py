"""Tables whose numbers are never cut: where a screen is narrow, the other columns fold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.ranking.ranking import Ranking
from sweeper.ranking.table import HEADINGS, MAIN_HEADINGS, rows

NUMBERS = {"rank", "trial", *MAIN_HEADINGS, "cells", "value"}
WHOLE = {*NUMBERS, "outcome", "state"}
"""Columns that are never folded."""
NARROWEST = 10
"""Letters that another column keeps on the narrowest screen; then the lines are longer than the screen."""


def print_ranking(console: Console, ranking: Ranking) -> None:
    """Print the verdict of a study; its best row is bold."""
    found = rows(ranking)
    headings = HEADINGS if any(row[-1] for row in found) else HEADINGS[:-1]
    print_table(console, headings, found, bold=[row[0] == "1" for row in found])


def print_table(
    console: Console, headings: Sequence[str], rows: Iterable[Sequence[str]], bold: Sequence[bool] = ()
) -> None:
    """Print texts under headings. Nothing in them is taken for markup."""
    lines = list(rows)
    longest = [max(len(row[place]) for row in [headings, *lines]) for place in range(len(headings))]
    least = [
        width if heading in WHOLE else min(width, NARROWEST)
        for heading, width in zip(headings, longest, strict=True)
    ]
    is_wide = sum(least) + 3 * len(least) <= console.width
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if is_wide else 0))
    for heading, width in zip(headings, least, strict=True):
        side: Literal["left", "right"] = "right" if heading in NUMBERS else "left"
        table.add_column(heading, justify=side, no_wrap=heading in WHOLE, overflow="fold", min_width=width)
    for position, row in enumerate(lines):
        is_bold = position < len(bold) and bold[position]
        cells = (Text(cell) for cell in row[: len(headings)])
        table.add_row(*cells, style="bold" if is_bold else None)
    if sum(least) + len(least) > console.width:
        table.width = sum(least) + len(least) + 1
    console.print(table, crop=False)
