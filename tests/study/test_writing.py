"""One writer of Markdown tables and one thinner serve the ranking, the report, the card and MLflow."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sweeper.study.writing import markdown_table, thin


def test_a_cell_cannot_break_its_table() -> None:
    lines = list(markdown_table(("cell", "loss"), [("a|b\nc", "1")], right=["loss"]))
    assert lines == ["| cell | loss |", "|---|--:|", "| a\\|b c | 1 |"]


@pytest.mark.parametrize(("count", "most"), [(1000, 180), (181, 180), (7, 2), (3, 8)])
def test_thinning_keeps_both_ends_and_even_spaces(count: int, most: int) -> None:
    kept = thin(range(count), most)
    assert len(kept) == min(count, most) and (kept[0], kept[-1]) == (0, count - 1)
    gaps = {after - before for before, after in pairwise(kept)}
    assert max(gaps) - min(gaps) <= 1
