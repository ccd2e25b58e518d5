"""`python -m sweeper memory [KEY=VALUE …] [--json]`: the predicted peak memory of a trial, and its parts."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.contract.trial import GIB

if TYPE_CHECKING:
    from sweeper.contract.prediction import MemoryPrediction
    from sweeper.preflight.plan import Asked


NEEDED = {
    "cuda": "the allocator's segments and the context where it is known",
    "cpu": "private memory, which trial.memory_limit_gib limits",
}
"""What is meant by it on each device."""


def run(options: Sequence[str], flags: Namespace) -> int:
    """Print the prediction of each cell; 1 when one does not fit or cannot be predicted."""
    from sweeper.preflight.plan import asking

    with asking(options) as (asked, fitting):
        if flags.json:
            print(json.dumps([_record(item) for item in asked], indent=2))
        else:
            for item in asked:
                _print(item, len(asked) == 1)
            sys.stdout.flush()  # what follows takes as long again
            for line in fitting:
                print(line)
    return 0 if all(map(_is_good, asked)) else 1


def _is_good(asked: Asked) -> bool:
    from sweeper.contract.prediction import MemoryPrediction

    return isinstance(asked.answer, MemoryPrediction) and asked.fits is not False


def _record(asked: Asked) -> dict[str, object]:
    from sweeper.contract.prediction import MemoryPrediction

    found, record = asked.answer, {"cell": asked.cell.overrides}
    if not isinstance(found, MemoryPrediction):
        return {**record, "error": found.reason}
    decided = {"needed_bytes": found.needed_bytes, "limit_bytes": asked.limit_bytes, "fits": asked.fits}
    return {**record, **found.to_json(), **decided}


def _print(asked: Asked, alone: bool) -> None:
    from sweeper.contract.prediction import MemoryPrediction

    answer = asked.answer
    label = asked.cell.config.model.path if alone else asked.cell.label
    if not isinstance(answer, MemoryPrediction):
        print(f"{label}: no prediction, {answer.reason}")
        return
    peak = f"predicted peak {size(answer.peak_bytes)} on {answer.device}, set by {answer.phase}"
    print(f"{label}: {peak}{_verdict(asked, answer)}")
    if alone:
        _print_parts(answer)


def _verdict(asked: Asked, answer: MemoryPrediction) -> str:
    """Whether it fits, and the figure that decides."""
    if asked.fits is None:
        return ""
    limit_gib = asked.cell.config.trial.memory_limit_gib
    limit = (
        f"the device's {size(asked.limit_bytes)}"
        if limit_gib is None
        else f"trial.memory_limit_gib={limit_gib:g}"
    )
    return f"; {'fits' if asked.fits else 'does not fit'} {limit}: a trial needs {size(answer.needed_bytes)}"


def _print_parts(answer: MemoryPrediction) -> None:
    for kind, count in answer.parts.items():
        print(f"  {kind:<28}{size(count):>12}")
    if answer.device == "cuda":
        reserved = None if answer.reserved_bytes is None else answer.reserved_bytes - answer.peak_bytes
        print(f"  {'allocator (besides)':<28}{size(reserved):>12}")
        print(f"  {'device context (besides)':<28}{size(answer.context_bytes):>12}")
        if answer.paged_bytes is not None:
            print(f"  {'paged state (besides)':<28}{size(answer.paged_bytes):>12}")
    elif answer.resident_bytes is not None:
        print(f"  {'resident in all':<28}{size(answer.resident_bytes):>12}")
    print(f"  {'needed in all':<28}{size(answer.needed_bytes):>12}   {NEEDED[answer.device]}")
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
