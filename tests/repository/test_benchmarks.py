"""What the committed results say is what the benchmarks' own code finds in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import memory_cpu, search
from benchmarks.runs import RESULTS


def result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    return {row["cell"]: row for row in result("search_table")["rows"]}


def test_joint_search_with_probes_and_dominance_needs_a_quarter_of_the_grid(table: dict[str, Any]) -> None:
    total_s, best, is_good = search.goal(table)
    assert len(table) >= 200 and best > 0
    played = search.play(table, (*search.STRATEGIES["joint (tpe), probe+train"][0], "search.seed=0"), is_good)
    assert played.found and played.seconds <= total_s / 4
    committed = result("search")["strategies"]["joint (tpe), probe+train"]
    assert committed["missed"] == 0 and max(committed["shares"]) <= 0.25
    assert committed["shares"].count(played.seconds / total_s) >= 1, "run `python -m benchmarks.search` again"


@pytest.mark.parametrize(
    ("shape", "against", "least", "median", "p95"),
    [
        ("tiny", "counted", 60, 0.02, 0.05),
        ("100m", "counted", 30, 0.02, 0.05),
        ("search", "counted", 250, 0.02, 0.05),
        ("100m", "resident", 30, 0.08, 0.20),
    ],
)
def test_predictions_hold_on_cells_that_nothing_was_fitted_to(
    shape: str, against: str, least: int, median: float, p95: float
) -> None:
    rows = [row for row in result("memory_cpu") if row["shape"] == shape]
    errors = [memory_cpu.errors(row)[against == "resident"] for row in rows]
    sizes = sorted(abs(error) for error in errors if error is not None)
    assert len(sizes) >= least
    assert sizes[len(sizes) // 2] <= median and sizes[-(-len(sizes) * 95 // 100) - 1] <= p95


def test_a_cell_is_skipped_under_a_limit_that_it_fits_less_than_once_in_a_hundred_times() -> None:
    rows = result("memory_cpu")
    assert memory_cpu.wrongly_skipped(rows) == []
    assert 3 / len(rows) <= 0.01, "the rule of three: none in n shows less than 3/n with 95 % confidence"


def test_the_drivers_cost_per_trial_stays_flat() -> None:
    measured = result("scale")
    assert measured["cells"] == 10_000 and measured["last_over_first"] <= 1.5
