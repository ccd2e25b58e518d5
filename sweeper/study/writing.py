"""How lists of values are written down: as a Markdown table, and thinned to what a reader can take in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def markdown_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()
) -> Iterator[str]:
    """The lines of a table; `right`: headings of the columns that are flush right."""
    yield _markdown_row(headings)
    yield f"|{'|'.join('--:' if name in right else '---' for name in headings)}|"
    yield from (_markdown_row(row) for row in rows)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


def thin(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many (two or more) of the items: evenly spaced, with the first and the last among them."""
    if len(items) <= most:
        return list(items)
    spacing = (len(items) - 1) / (most - 1)
    return [items[round(index * spacing)] for index in range(most)]
