"""What a person sees while one long run goes on: a bar on a terminal, a line per evaluation elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sweeper.contract import TrialProgress

Lines = Sequence[TrialProgress]


@contextmanager
def watching(console: Console) -> Iterator[Callable[[Lines], None]]:
    """A watcher of progress lines, fit for the console."""
    if not console.is_terminal:
        yield _Plain(console)
        return
    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar)


def _latest(lines: Lines, event: str) -> TrialProgress | None:
    return next((line for line in reversed(lines) if line.event == event), None)


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("loading", total=None)
        self._eval_loss: float | None = None

    def __call__(self, lines: Lines) -> None:
        step, evaluation = _latest(lines, "step"), _latest(lines, "eval")
        if evaluation is not None:
            self._eval_loss = evaluation.loss
        if step is not None:
            shown = f"loss {step.loss or 0:.4f}"
            shown += "" if self._eval_loss is None else f", eval loss {self._eval_loss:.4f}"
            self._bar.update(self._task, total=step.total_steps, completed=step.step, description=shown)


class _Plain:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: int | None = None
        self._first: tuple[int, float] | None = None
        """Step and time at which this watcher began to see steps."""

    def __call__(self, lines: Lines) -> None:
        step, evaluation = _latest(lines, "step"), _latest(lines, "eval")
        if step is not None and self._first is None:
            self._first = step.step, time.monotonic()
        if evaluation is None or evaluation.step == self._shown or evaluation.loss is None:
            return
        self._shown = evaluation.step
        total = step.total_steps if step else None
        where = f"step {evaluation.step}" + (f" of {total}" if total else "")
        loss = f", loss {step.loss:.4f}" if step and step.loss is not None else ""
        text = f"{where}{loss}, eval loss {evaluation.loss:.4f}{self._left(step)}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _left(self, step: TrialProgress | None) -> str:
        if step is None or self._first is None or step.total_steps is None or step.step <= self._first[0]:
            return ""
        per_step_s = (time.monotonic() - self._first[1]) / (step.step - self._first[0])
        return f", about {per_step_s * (step.total_steps - step.step):.0f} s left"
