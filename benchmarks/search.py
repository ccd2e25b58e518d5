"""How much of a grid's time each strategy needs to come within 2% of its best feasible throughput.

    python -m benchmarks.search

Plays the strategies on `results/search_table.json` (`python -m benchmarks.search_record` measures it): every
cell of a grid, once as a probe and once trained in full by the real trainer. The strategies, out-of-memory
dominance and the rule are those of a sweep; only the trials are answered from the table. A strategy's price
is the recorded time of the trials that it started until the first fully trained one that keeps the rule and
is within 2% of the best, as a share of what all cells trained in full take. Strategies that draw are played
once per seed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runs import RESULTS, write_result
from benchmarks.search_record import CONDITION, FIXED, GRID
from sweeper.config.hydra import initialized_hydra
from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import Measurements
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from sweeper.machine import machine
from sweeper.preflight.dominance import Dominance
from sweeper.ranking.ranking import rank
from sweeper.ranking.rule import Rule
from sweeper.space.expand import expand
from sweeper.strategies.asking import Asking
from sweeper.strategies.base import Proposal, Question
from sweeper.study.records import TrialRecord

NEAR = 0.98
SEEDS = range(5)
ALL = f"search.n_trials={10**6}"
"""Propose until the space is exhausted."""
STRATEGIES: dict[str, tuple[tuple[str, ...], bool]] = {
    "grid": ((), False),
    "random": (("search.sampler=random", ALL), True),
    "tpe": (("search.sampler=tpe", ALL), True),
    "paper": (("strategy=paper", "batch.effective=choice(8)"), False),
    "grid, probe+train": (("fidelity=probe+train",), False),
    "joint (tpe), probe+train": (("strategy=joint", ALL, "fidelity=probe+train"), True),
    "joint (random), probe+train": (
        ("strategy=joint", "search.sampler=random", ALL, "fidelity=probe+train"),
        True,
    ),
}
"""Name -> overrides, and whether it draws."""

Table = Mapping[str, Mapping[str, Any]]


def cell_name(config: Config) -> str:
    """The row of the table that a configuration belongs to."""
    optim = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw_fused", "adamw_8bit": "bnb8"}
    values = {
        "batch.micro": config.batch.micro,
        "checkpointing": "on" if config.checkpointing else "off",
        "adapter": config.adapter,
        "lora.r": config.lora.r,
        "optim": optim.get(config.optim, config.optim),
        "attention": config.attention,
    }
    return " ".join(f"{key}={value}" for key, value in values.items())


def record(number: int, proposal: Proposal, row: Mapping[str, Any]) -> TrialRecord:
    """What the scheduler would have learned of the trial."""
    spec = TrialSpec(
        "search", number, str(number), proposal.cell.config.to_dict(), dict(proposal.cell.overrides),
        stage=proposal.stage, repeat=proposal.repeat,
    )  # fmt: skip
    values = {name: value for name, value in row.items() if name != "outcome"}
    result = TrialResult(Outcome(row["outcome"]), None, Measurements(**values))
    return TrialRecord(spec, result, TrialFolder(Path("-")))


@dataclass
class Played:
    """What a strategy spent."""

    seconds: float = 0.0
    probes: int = 0
    trainings: int = 0
    skipped: int = 0
    found: bool = False


def play(table: Table, overrides: tuple[str, ...], is_good: Callable[[TrialRecord], bool]) -> Played:
    """Play a strategy, one trial at a time, until a trial is good or nothing is left to propose."""
    with initialized_hydra():
        space = expand([*GRID, CONDITION, *FIXED, *overrides], "config", machine())
        asking, dominance, played = Asking(Question(space, lambda line: None)), Dominance(), Played()
        known: dict[tuple[str, bool, int], TrialRecord] = {}
        while (proposal := asking.propose()) is not None:
            config = proposal.cell.config
            is_probe = config.trial.probe_steps is not None
            key = (cell_name(config), is_probe, proposal.repeat)
            if key not in known:
                known[key] = _answered(table, proposal, len(known), dominance, played)
            asking.tell(proposal, known[key])
            if not is_probe and is_good(known[key]):
                played.found = True
                break
    return played


def _answered(
    table: Table, proposal: Proposal, number: int, dominance: Dominance, played: Played
) -> TrialRecord:
    config = proposal.cell.config
    skipped = dominance.verdict(config)
    if skipped is not None:
        played.skipped += 1
        return record(number, proposal, {"outcome": skipped.outcome.value})
    is_probe = config.trial.probe_steps is not None
    row = table[cell_name(config)]["probe" if is_probe else "train"]
    played.seconds += row["total_time_s"]
    played.probes += is_probe
    played.trainings += not is_probe
    found = record(number, proposal, row)
    dominance.on_end(found)
    return found


def goal(table: Table) -> tuple[float, float, Callable[[TrialRecord], bool]]:
    """Time of the whole grid, its best feasible throughput, and who comes near it."""
    with initialized_hydra():
        space = expand([*GRID, CONDITION, *FIXED], "config", machine())
    records = [
        record(number, Proposal(cell), table[cell_name(cell.config)]["train"])
        for number, cell in enumerate(space.cells)
    ]
    ranking = rank(records, Rule.of(space.config.objective, space.config.constraint))
    best = ranking.best
    assert best is not None
    best_speed = best.metric("tokens_per_s") or 0.0
    good = {
        cell_name_of(trial.record): trial.record
        for trial in ranking.trials
        if trial.rank is not None and (trial.record.metric("tokens_per_s") or 0.0) >= NEAR * best_speed
    }
    total_s = sum(row["train"]["total_time_s"] for row in table.values())
    return total_s, best_speed, lambda found: cell_name_of(found) in good


def cell_name_of(found: TrialRecord) -> str:
    """The row of the table that a record came from."""
    from sweeper.contract.config import from_dict

    return cell_name(from_dict(found.spec.config))


def main() -> None:
    """Play, print, write."""
    rows = json.loads((RESULTS / "search_table.json").read_text())["rows"]
    table = {row["cell"]: row for row in rows}
    total_s, best_speed, is_good = goal(table)
    print(f"{len(table)} cells, {total_s:,.0f} trial-seconds, best feasible {best_speed:,.0f} tokens/s")
    figures: dict[str, Any] = {}
    for name, (overrides, draws) in STRATEGIES.items():
        seeds = SEEDS if draws else SEEDS[:1]
        played = [play(table, (*overrides, f"search.seed={seed}"), is_good) for seed in seeds]
        shares = sorted(item.seconds / total_s for item in played if item.found)
        missed = len(played) - len(shares)
        median = statistics.median(shares) if shares else None
        figures[name] = {
            "shares": shares,
            "missed": missed,
            "median": median,
            "plays": [vars(p) for p in played],
        }
        shown = "never" if median is None else f"median {median:.1%}, {shares[0]:.1%} to {shares[-1]:.1%}"
        print(f"{name:<30}{shown}{f', missed {missed} of {len(played)}' if missed else ''}", flush=True)
    write_result(
        "search",
        "python -m benchmarks.search",
        {
            "cells": len(table),
            "grid_trial_seconds": total_s,
            "best_tokens_per_s": best_speed,
            "strategies": figures,
        },
    )


if __name__ == "__main__":
    main()
