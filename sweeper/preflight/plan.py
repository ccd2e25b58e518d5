"""From the overrides of a command line to predictions of memory, and to what would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sweeper.config.cell import Cell, ConfigurationError
from sweeper.config.hydra import initialized_hydra
from sweeper.contract.prediction import MemoryPrediction
from sweeper.contract.trial import GIB, Problem
from sweeper.launchers.local import local_launcher
from sweeper.launchers.sight import see_machine
from sweeper.machine import (
    ATTENTION_PACKAGES,
    Device,
    Machine,
    device_memory_bytes,
    free_memory_bytes,
    machine,
)
from sweeper.preflight.bill import Bill, bill
from sweeper.preflight.fixes import Change, changes, combination
from sweeper.preflight.inputs import Identities
from sweeper.preflight.memory import MemoryScreen
from sweeper.preflight.prediction import Answer
from sweeper.preflight.time import TimeModels
from sweeper.space.expand import expand
from sweeper.study.folder import CACHE

Problems = list[tuple[Problem, str]]
"""Mistakes, each with the cell that it stands in."""


@dataclass(frozen=True)
class Asked:
    """One cell that was asked about."""

    cell: Cell
    answer: Answer
    limit_bytes: int | None
    """What its trial may use: `trial.memory_limit_gib`, or the CUDA device's memory."""

    @property
    def fits(self) -> bool | None:
        """Whether what it needs is within the limit; None without a limit or a prediction."""
        if self.limit_bytes is None or not isinstance(self.answer, MemoryPrediction):
            return None
        return self.answer.needed_bytes <= self.limit_bytes


@contextmanager
def asking(overrides: Sequence[str]) -> Iterator[tuple[list[Asked], Iterator[str]]]:
    """The cells with their predictions, and lines about changes that make a lone cell fit its limit, which
    are found when they are asked for: each takes a prediction.

    Raises ConfigurationError with every mistake.
    """
    see_machine(local_launcher)
    with local_launcher() as launcher:
        launcher.start()
        with initialized_hydra():
            asked = expand(overrides, "config", supposed_machine(overrides)).cells
        cache_dir = Path(asked[0].config.study.root) / CACHE
        screen = MemoryScreen(launcher, cache_dir, device_memory_bytes(), free_memory_bytes())
        cells = [screen.sized(cell) for cell in asked]
        answers = screen.look([cell.config for cell in cells])
        found = [
            Asked(cell, answer, screen.limit_bytes(cell.config))
            for cell, answer in zip(cells, answers, strict=True)
        ]
        yield found, _fitting(found[0], overrides, screen) if len(found) == 1 else iter(())


def plan(overrides: Sequence[str]) -> Bill:
    """The bill of what a command line asks for, with every mistake that the sweep would refuse."""
    here, supposed = see_machine(local_launcher), supposed_machine(overrides)
    with local_launcher() as launcher, initialized_hydra():
        launcher.start()
        problems: Problems = []
        try:
            cells = expand(overrides, "config", supposed).cells
        except ConfigurationError as error:
            cells, problems = _sound(error.cells, error.problems), error.problems
        cache_dir = Path(cells[0].config.study.root if cells else ".") / CACHE
        problems += _mistakes(
            lambda: Identities(launcher, cache_dir, supposed).look(_to_look_at(cells, here))
        )
        screen = MemoryScreen(launcher, cache_dir, device_memory_bytes(), free_memory_bytes())
        cells = _sound(cells, problems)
        for cell in cells:
            problems += _mistakes(lambda cell=cell: screen.sized(cell))  # type: ignore[misc]
        cells = tuple(screen.sized(cell) for cell in _sound(cells, problems))
        configs = [cell.config for cell in cells]
        answers = screen.look(configs)
        skipped = [screen.is_skipped(config) for config in configs]
        notes = () if supposed == here else ("Supposing a CUDA device: this machine has none",)
        return bill(cells, answers, skipped, TimeModels(cache_dir), here, problems, notes)


def _mistakes(check: Callable[[], object]) -> Problems:
    try:
        check()
    except ConfigurationError as error:
        return error.problems
    return []


def _sound(cells: Sequence[Cell], problems: Problems) -> tuple[Cell, ...]:
    wrong = {label for _, label in problems}
    return tuple(cell for cell in cells if cell.label not in wrong and "" not in wrong)


def _to_look_at(cells: Sequence[Cell], here: Machine) -> list[Cell]:
    """FlashAttention-2 is a package that a machine without CUDA need not have to plan with it."""
    return [
        replace(cell, config=replace(cell.config, attention="eager"))
        if cell.config.attention in ATTENTION_PACKAGES and cell.config.attention not in here.kernels
        else cell
        for cell in cells
    ]


def supposed_machine(overrides: Sequence[str]) -> Machine:
    """This machine, or one with CUDA where that is asked about: a prediction needs no device."""
    here = machine()
    devices = [item.partition("=")[2].split(",") for item in overrides if item.startswith("trial.device=")]
    if here.cuda_devices or not any("cuda" in names for names in devices):
        return here
    return replace(here, devices=(Device("0"),), kernels=frozenset(ATTENTION_PACKAGES), trouble=None)


def _fitting(asked: Asked, overrides: Sequence[str], screen: MemoryScreen) -> Iterator[str]:
    """What would make it fit: the cheapest single changes, or all together, each with what it needs."""
    limit_bytes, answer = asked.limit_bytes, asked.answer
    if asked.fits is not False or limit_bytes is None or not isinstance(answer, MemoryPrediction):
        return
    tried = changes(asked.cell.config, answer.phase, overrides)
    fitting = [
        f"  {change.override:<26}{prediction.needed_bytes / GIB:8.2f} GiB   costs: {change.cost}"
        for change, prediction in zip(tried, screen.look([item.config for item in tried]), strict=True)
        if isinstance(prediction, MemoryPrediction) and prediction.needed_bytes <= limit_bytes
    ]
    if fitting:
        yield from ("Cheapest single changes that make it fit:", *fitting)
    else:
        yield _all_together(combination(asked.cell.config, overrides), limit_bytes, screen)


def _all_together(change: Change | None, limit_bytes: int, screen: MemoryScreen) -> str:
    smaller = "take a smaller model, or cut the examples with data.max_length"
    if change is None:
        return f"No single change makes it fit, and none that saves memory is left to combine: {smaller}"
    (found,) = screen.look([change.config])
    if not isinstance(found, MemoryPrediction):
        return (
            f"No single change makes it fit; {change.override} together cannot be predicted: {found.reason}"
        )
    needs = f"{change.override} together need {found.needed_bytes / GIB:.2f} GiB"
    if found.needed_bytes <= limit_bytes:
        return f"No single change makes it fit, but {needs}, which fits"
    return f"No single change makes it fit, nor do all: {needs}; {smaller}"
