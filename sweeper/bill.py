"""The bill of a sweep before it runs: what fits, how long it takes, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.contract import GIB, Problem
from sweeper.contract_memory import MemoryPrediction
from sweeper.memory_screen import MemoryScreen, exceeds
from sweeper.prediction import Answer
from sweeper.provenance import machine
from sweeper.schema import Config
from sweeper.space import Cell
from sweeper.time_model import TimeModels, device_key

EVALUATIONS_SHARE = 1 / 3
"""A forward pass is about a third of a step: what evaluation takes of a step of equal batches."""


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
    limits_bytes: Sequence[int | None],
    times: TimeModels,
    device: str,
    problems: Sequence[tuple[Problem, str]] = (),
) -> Bill:
    """Make out the bill."""
    lines = tuple(
        Line(
            cell.label,
            answer,
            trial_time_s(cell.config, answer, times, device),
            _skipped(cell, answer, limit),
        )
        for cell, answer, limit in zip(cells, answers, limits_bytes, strict=True)
    )
    known = sum(line.time_s or 0.0 for line in lines if not line.is_skipped)
    price = cells[0].config.hardware.price_per_hour if cells else None
    return Bill(lines, tuple(problems), price, known)


def bill_lines(cells: Sequence[Cell], screen: MemoryScreen, cache_dir: Path) -> Iterator[str]:
    """The bill of cells in a few lines, predicted through a screen."""
    configs = [cell.config for cell in cells]
    answers = screen.look(configs)
    limits = [screen.limit_bytes(config) for config in configs]
    yield from summary(bill(cells, answers, limits, TimeModels(cache_dir), machine().device))


def _skipped(cell: Cell, answer: Answer, limit_bytes: int | None) -> bool:
    memory = cell.config.memory
    if limit_bytes is None or memory.skip == "never" or not isinstance(answer, MemoryPrediction):
        return False
    return exceeds(answer, limit_bytes, memory.margin)


def trial_time_s(config: Config, answer: Answer, times: TimeModels, device: str) -> float | None:
    """Expected time of a whole trial: its steps, and its evaluations as forward passes."""
    if not isinstance(answer, MemoryPrediction) or not answer.work:
        return None
    model = times.of(device_key(device, config.to_dict()))
    if model is None:
        return None
    step_s = model.step_time_s(answer.work)
    work = answer.work
    evaluations = 2 + (work["steps"] // config.evaluate.every_steps if config.evaluate.every_steps else 0)
    passes_per_evaluation = work.get("evaluation_tokens", 0) / max(work["padded_tokens"], 1)
    return step_s * (work["steps"] + evaluations * passes_per_evaluation * EVALUATIONS_SHARE)


def summary(found: Bill) -> Iterator[str]:
    """The bill in a few lines."""
    skipped = len(found.lines) - len(found.to_run)
    count = f"{len(found.lines)} cells"
    if found.problems:
        count += f", {len({label for _, label in found.problems})} more are invalid"
    if skipped:
        count += f", {skipped} predicted not to fit"
    yield f"{count}: {len(found.to_run)} to run"
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
