"""`python -m sweeper studies [study.root=…] [--json]`: all studies with their state and best trial."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sweeper.analysis.open import asked_root
from sweeper.analysis.studies import Summary, summaries
from sweeper.cli.display import console, print_json
from sweeper.cli.tables import print_table
from sweeper.study.units import phrase


def run(options: Sequence[str], flags: Namespace) -> int:
    """Print one line per study."""
    root = asked_root(options)
    found = list(summaries(root))
    if flags.json:
        print_json([_plain(item) for item in found])
    elif not found:
        print(f"No study lies in {root}. Start one: python -m sweeper -m lora.r=8,16")
    else:
        _print(found)
    return 0


def _print(found: Sequence[Summary]) -> None:
    print_table(console(), ("study", "state", "cells", "trials", "best", "value"), map(_row, found))
    for item in found:
        if item.problem:
            print(f"{item.name}: {item.problem}", file=sys.stderr)


def _row(item: Summary) -> tuple[str, ...]:
    value = item.best.metric(item.metric) if item.best and item.metric else None
    trials = ", ".join(f"{count} {outcome}" for outcome, count in item.outcomes.items())
    best = f"trial {item.best.number}, {item.best.label}" if item.best else "–"
    return item.name, item.state, _cells(item), trials or "–", best, phrase(item.metric or "", value)


def _cells(item: Summary) -> str:
    return str(item.settled) if item.asked is None else f"{item.settled}/{max(item.asked, item.settled)}"


def _plain(item: Summary) -> dict[str, Any]:
    best = item.best
    value = best.metric(item.metric) if best and item.metric else None
    shown = {"trial": best.number, "overrides": best.spec.overrides, "value": value} if best else None
    return {**asdict(Summary(**{**vars(item), "best": None})), "best": shown}
