"""What a person sees while a study runs: a live table on a terminal, one plain line per event elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeper.cli.signals import close_output
from sweeper.contract.trial import Problem, TrialProgress
from sweeper.ranking.table import MAIN_HEADINGS, main_figures
from sweeper.scheduler.board import Board, CellState, Listener

STYLES = {"completed": "green", "pruned": "yellow", "cancelled": "yellow"}


class Output(Console):
    """The standard output of a study. When nobody reads it any more (`| head -1`), the study ends as by
    Ctrl-C."""

    def on_broken_pipe(self) -> None:
        """Let what is still printed go nowhere. Raises KeyboardInterrupt."""
        close_output()
        raise KeyboardInterrupt


def console() -> Console:
    """The standard output: as wide as the terminal, and wide enough for our tables elsewhere."""
    return Output() if sys.stdout.isatty() else Output(width=160)


def print_json(value: Any) -> None:
    """Print a value as JSON, with escapes for the letters that the output's encoding lacks."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    print(json.dumps(value, indent=2, ensure_ascii=not is_unicode))


@contextmanager
def listener(console: Console) -> Iterator[Listener]:
    """A listener for the scheduler, fit for the console."""
    if not console.is_terminal:
        yield lambda board, line: _plain(console, board, line)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:

        def update(board: Board, line: str | None) -> None:
            if line is not None and not line.startswith("trial "):
                live.console.print(line, markup=False, highlight=False)
            live.update(_live(board))

        yield update


def _plain(console: Console, board: Board, line: str | None) -> None:
    if line is not None:
        of_all = "" if board.total is None else f"/{board.total}"
        console.print(f"[{board.done}{of_all}] {line}", markup=False, highlight=False, soft_wrap=True)


def _live(board: Board) -> Group:
    table = Table(box=None, pad_edge=False)
    for heading in ("cell", "outcome", *MAIN_HEADINGS):
        is_text = heading in ("cell", "outcome")
        table.add_column(
            heading, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text
        )
    for state in _window(board.cells):
        table.add_row(*_row(state))
    left_s = board.time_left_s()
    left = "" if left_s is None else f", about {left_s:.0f} s left"
    elapsed_s = time.monotonic() - board.started_s
    of_all = "" if board.total is None else f" of {board.total}"
    bar = ProgressBar(total=board.total, completed=board.done, width=40)
    progress = Table.grid(padding=(0, 2))
    progress.add_row(bar, f"{board.done}{of_all} cells, {elapsed_s:.0f} s{left}")
    return Group(table, progress)


def _window(cells: Sequence[CellState], most: int = 24) -> Sequence[CellState]:
    """The last cells, as many as a screen holds."""
    return cells[-most:]


def _row(state: CellState) -> tuple[str | Text, ...]:
    record = state.record
    if record is None or record.result is None:
        return (Text(state.label), _activity(state), *_so_far(state))
    outcome = record.result.outcome.value + (" (before)" if state.reused else "")
    return (
        Text(state.label),
        Text(outcome, style=STYLES.get(record.result.outcome.value, "red")),
        *main_figures(record),
    )


def _activity(state: CellState) -> Text:
    line = state.progress
    if not state.running:
        return Text("waiting", style="dim")
    if line is None or not line.step:
        return Text(line.phase or "start" if line else "start", style="cyan")
    return Text(f"step {line.step}/{line.total_steps or '?'}", style="cyan")


def _so_far(state: CellState) -> tuple[str, str, str]:
    line = state.progress if state.running else None
    if line is None or not line.tokens or not line.step_time_s:
        return "", "", ""
    return f"{line.tokens / line.step_time_s:,.0f}", "", ""


def problem_lines(problems: Sequence[tuple[Problem, str]]) -> list[str]:
    """One entry per distinct problem: rule, key, value, remedy, and the cells it stands in."""
    cells: dict[Problem, list[str]] = {}
    for problem, cell in problems:
        cells.setdefault(problem, []).append(cell)
    return [_problem_line(problem, labels) for problem, labels in cells.items()]


def _problem_line(problem: Problem, labels: list[str]) -> str:
    named = [label for label in dict.fromkeys(labels) if label]
    where = ""
    if named:
        more = f" and {len(named) - 2} more" if len(named) > 2 else ""
        where = f"\n    in {', '.join(named[:2])}{more}"
    remedy = f": {problem.remedy}" if problem.remedy else ""
    return f"  {problem.rule}, but {problem.key} is {problem.value}{remedy}{where}"


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
