"""`python -m sweeper memory [KEY=VALUE …] [--json]`: the predicted peak memory of a trial, and its parts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.contract import GIB

if TYPE_CHECKING:
    from sweeper.contract_memory import MemoryPrediction
    from sweeper.prediction import Answer
    from sweeper.schema import Config
    from sweeper.space import Cell


def run(arguments: Sequence[str]) -> int:
    """Print the prediction of each cell; 1 when one does not fit or cannot be predicted."""
    from sweeper.display import problem_lines
    from sweeper.fitting import ask
    from sweeper.space import ConfigurationError

    overrides = [item for item in arguments if item not in ("--json", "-m", "--multirun")]
    try:
        cells, answers, fitting = ask(overrides)
    except ConfigurationError as error:
        lines = problem_lines(error.problems)
        print("The configuration has mistakes; nothing was predicted:", *lines, sep="\n", file=sys.stderr)
        return 2
    if "--json" in arguments:
        print(
            json.dumps([_record(cell, answer) for cell, answer in zip(cells, answers, strict=True)], indent=2)
        )
    else:
        for cell, answer in zip(cells, answers, strict=True):
            _print(cell, answer, len(cells) == 1)
        for line in fitting:
            print(line)
    return 0 if all(_fits(cell.config, answer) for cell, answer in zip(cells, answers, strict=True)) else 1


def _fits(config: Config, answer: Answer) -> bool:
    from sweeper.contract_memory import MemoryPrediction

    limit_gib = config.trial.memory_limit_gib
    return isinstance(answer, MemoryPrediction) and (
        limit_gib is None or answer.needed_bytes <= limit_gib * GIB
    )


def _record(cell: Cell, answer: Answer) -> dict[str, object]:
    from sweeper.contract_memory import MemoryPrediction

    found = answer.to_json() if isinstance(answer, MemoryPrediction) else {"error": answer.reason}
    return {"cell": cell.overrides, **found}


def _print(cell: Cell, answer: Answer, alone: bool) -> None:
    from sweeper.contract_memory import MemoryPrediction

    label = cell.config.model.path if alone else cell.label
    if not isinstance(answer, MemoryPrediction):
        print(f"{label}: no prediction, {answer.reason}")
        return
    peak = f"predicted peak {size(answer.peak_bytes)} on {answer.device}, set by {answer.phase}"
    print(f"{label}: {peak}{_verdict(cell.config, answer)}")
    if alone:
        _print_parts(answer)


def _verdict(config: Config, answer: MemoryPrediction) -> str:
    limit_gib = config.trial.memory_limit_gib
    if limit_gib is None:
        return ""
    fits = "fits" if _fits(config, answer) else "does not fit"
    return f"; {fits} trial.memory_limit_gib={limit_gib:g}"


def _print_parts(answer: MemoryPrediction) -> None:
    for kind, count in answer.parts.items():
        print(f"  {kind:<28}{size(count):>12}")
    if answer.device == "cuda":
        reserved = None if answer.reserved_bytes is None else answer.reserved_bytes - answer.peak_bytes
        print(f"  {'allocator (besides)':<28}{size(reserved):>12}")
        print(f"  {'device context (besides)':<28}{size(answer.context_bytes):>12}")
    elif answer.resident_bytes is not None:
        print(f"  {'resident in all':<28}{size(answer.resident_bytes):>12}")
    phases = ", ".join(f"{name} {size(count)}" for name, count in answer.phases.items())
    print(f"  Peaks by phase: {phases}")
    print(f"  Assumed: {answer.micro} sequences of {answer.longest_tokens} tokens per pass")
    for note in answer.notes:
        print(f"  Note: {note}")


def size(count: int | None) -> str:
    """Bytes for a person: GiB, or MiB below one; unknown is said."""
    if count is None:
        return "unknown"
    return f"{count / GIB:,.2f} GiB" if count >= GIB else f"{count / 2**20:,.1f} MiB"
