"""The bill of a sweep before it runs: what fits, how long it takes, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.config.cell import Cell
from sweeper.contract.config import Config
from sweeper.contract.prediction import MemoryPrediction
from sweeper.contract.trial import GIB, Problem
from sweeper.machine import Machine, machine
from sweeper.preflight.memory import MemoryScreen
from sweeper.preflight.prediction import Answer
from sweeper.preflight.time import TimeModels, device_key, device_of


@dataclass(frozen=True)
class Line:
    """One cell of the bill."""

    label: str
    answer: Answer
    time_s: float | None
    """Expected time of its trial; None before a trial was measured on this device."""
    is_skipped: bool


@dataclass(frozen=True)
class Bill:
    """What a sweep will ask of the machine."""

    lines: tuple[Line, ...]
    problems: tuple[tuple[Problem, str], ...]
    """Mistakes, each with the cell that it stands in."""
    price_per_hour: float | None
    known_time_s: float
    """Sum over the cells whose time is known and that are to run."""
    notes: tuple[str, ...] = ()
    """What was supposed."""

    @property
    def to_run(self) -> list[Line]:
        return [line for line in self.lines if not line.is_skipped]

    @property
    def time_s(self) -> float | None:
        """Expected time of all cells that will run; None where one of them is unknown."""
        times = [line.time_s for line in self.to_run]
        known = [time_s for time_s in times if time_s is not None]
        return sum(known) if len(known) == len(times) else None

    @property
    def price(self) -> float | None:
        """Expected price, one device at a time."""
        if self.time_s is None or self.price_per_hour is None:
            return None
        return self.time_s / 3600 * self.price_per_hour


def bill(
    cells: Sequence[Cell],
    answers: Sequence[Answer],
    skipped: Sequence[bool],
    times: TimeModels,
    here: Machine,
    problems: Sequence[tuple[Problem, str]] = (),
    notes: Sequence[str] = (),
) -> Bill:
    """Make out the bill. `skipped`: which cells are predicted not to fit; `here`: the machine as it is."""
    lines = tuple(
        Line(cell.label, answer, trial_time_s(cell.config, answer, times, here), is_skipped)
        for cell, answer, is_skipped in zip(cells, answers, skipped, strict=True)
    )
    known = sum(line.time_s or 0.0 for line in lines if not line.is_skipped)
    price = cells[0].config.hardware.price_per_hour if cells else None
    return Bill(lines, tuple(problems), price, known, tuple(notes))


def bill_lines(cells: Sequence[Cell], screen: MemoryScreen, cache_dir: Path) -> Iterator[str]:
    """The bill of cells in a few lines, predicted through a screen."""
    cells = [screen.sized(cell) for cell in cells]
    configs = [cell.config for cell in cells]
    answers = screen.look(configs)  # of all at once
    skipped = [screen.is_skipped(config) for config in configs]
    yield from summary(bill(cells, answers, skipped, TimeModels(cache_dir), machine()))


def trial_time_s(config: Config, answer: Answer, times: TimeModels, here: Machine) -> float | None:
    """Expected time of a whole trial: its steps, and its evaluations as forward passes."""
    device = device_of(config, here)
    if not isinstance(answer, MemoryPrediction) or not answer.work or device is None:
        return None
    model = times.of(device_key(device, config.to_dict()))
    if model is None:
        return None
    work = answer.work
    passes_s = model.step_time_s({**work, "optimizer_bytes": 0.0})
    forward_share = work["forward_flops"] / work["flops"] / work["padded_tokens"]
    return model.step_time_s(work) * work["steps"] + passes_s * forward_share * evaluated_tokens(config, work)


def evaluated_tokens(config: Config, work: Mapping[str, float]) -> float:
    """Tokens that a trial evaluates in all: its split before, after and between, general texts twice."""
    if config.trial.probe_steps is not None:
        return 0.0
    every = config.evaluate.every_steps
    evaluations = 2 + (work["steps"] // every if every else 0)
    return evaluations * work["evaluation_tokens"] + 2 * work["general_tokens"]


def counted(number: int) -> str:
    """Cells in words."""
    return f"{number} cell{'' if number == 1 else 's'}"


def summary(found: Bill) -> Iterator[str]:
    """The bill in a few lines."""
    yield from found.notes
    skipped = len(found.lines) - len(found.to_run)
    count = counted(len(found.lines))
    if found.problems:
        invalid = len({label for _, label in found.problems})
        count += f", {invalid} more {'is' if invalid == 1 else 'are'} invalid"
    if skipped:
        count += f", {skipped} predicted not to fit"
    yield f"{count}: {len(found.to_run)} to run"
    unknown = sum(not isinstance(line.answer, MemoryPrediction) for line in found.lines)
    if unknown:
        yield f"No prediction for {counted(unknown)}, run all the same: `python -m sweeper plan` says why"
    peaks = [line.answer.peak_bytes for line in found.to_run if isinstance(line.answer, MemoryPrediction)]
    if peaks:
        yield f"Predicted peak memory: {min(peaks) / GIB:.2f} to {max(peaks) / GIB:.2f} GiB"
    yield _time_line(found)


def _time_line(found: Bill) -> str:
    if found.time_s is None:
        return "Expected time: unknown before a first trial of these precisions was measured on this device"
    line = f"Expected time: {duration(found.time_s)}, {found.time_s / 3600:.2f} device hours"
    return line if found.price is None else f"{line}, price {found.price:.2f}"


def duration(seconds: float) -> str:
    """A time for a person."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
