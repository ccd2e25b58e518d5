"""`python -m sweeper plan -m KEY=VALUE,VALUE …`: the bill of a sweep, without running it."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.preflight.bill import Line


def run(options: Sequence[str], flags: Namespace) -> int:
    """Print each cell's predicted peak and time, then the sum; 2 when nothing could be composed."""
    from sweeper.cli.display import problem_lines
    from sweeper.preflight.bill import summary
    from sweeper.preflight.plan import plan

    found = plan(options)
    if found.problems:
        print("Mistakes in the configuration:", *problem_lines(found.problems), sep="\n", file=sys.stderr)
    for line in found.lines:
        print(_cell(line))
    if not found.lines:
        return 2
    for text in summary(found):
        print(text)
    return 2 if found.problems else 0 if found.to_run else 1


def _cell(line: Line) -> str:
    from sweeper.cli.verbs.memory import size
    from sweeper.contract.prediction import MemoryPrediction
    from sweeper.preflight.bill import duration

    if not isinstance(line.answer, MemoryPrediction):
        return f"  {line.label}: no prediction, {line.answer.reason}"
    time = "" if line.time_s is None else f", about {duration(line.time_s)}"
    verdict = "  predicted not to fit, will not be run" if line.is_skipped else ""
    return f"  {line.label}: peak {size(line.answer.peak_bytes)}, set by {line.answer.phase}{time}{verdict}"
