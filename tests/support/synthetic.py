"""Studies as they lie on disk, written through the real records, with results made up by a formula.

The formula knows the textbook effects (half the bytes at 16 bit, a quarter less speed with
checkpointing, …), so that a test can tell what a verdict has to find.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sweeper.config.validate import typed
from sweeper.contract.config import Config
from sweeper.contract.measurements import Measurements
from sweeper.contract.stamps import digest
from sweeper.contract.trial import GIB, Outcome, TrialProgress, TrialResult, TrialSpec
from sweeper.study.folder import StudyFolder
from sweeper.study.records import StudyRecord

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MIB = 2**20
GROUPS = {
    ("optim", "adamw"): "adamw_torch",
    ("optim", "bnb8"): "adamw_8bit",
    ("checkpointing", "on"): True,
    ("checkpointing", "off"): False,
}
"""What a group's option sets, where that is not the option's own name."""
ENVIRONMENT = {"device": "A GPU", "python": "3.11.7", "libraries": {"torch": "2.13.0", "peft": "0.21.2"}}


def configured(overrides: Mapping[str, str], **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration with these overrides."""
    config = Config().to_dict()
    for section, values in sections.items():
        config[section] |= values
    for key, text in overrides.items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = GROUPS.get((key, text), _value(text))
    known, problems = typed(config)
    assert known is not None and not problems, problems
    return known.to_dict()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def measured(overrides: Mapping[str, str]) -> Measurements:
    """What the formula says of a cell."""
    speed, memory, loss = 1000.0, 2000.0, 2.0
    if overrides.get("precision", "fp32") != "fp32":
        speed, memory = speed * 1.8, memory * 0.6
    if overrides.get("checkpointing") == "on":
        speed, memory = speed * 0.75, memory - 400
    if overrides.get("optim") == "bnb8":
        memory -= 150
    micro = int(overrides.get("batch.micro", 4))
    speed, memory = speed * micro**0.2, memory + 60 * micro
    rank = int(overrides.get("lora.r", 8))
    memory, loss = memory + rank, loss - 0.01 * (rank / 8)
    steps = 20
    return Measurements(
        tokens_per_s=speed,
        step_time_s=500 / speed,
        step_time_p25_s=490 / speed,
        step_time_p75_s=515 / speed,
        steps=steps,
        measured_steps=steps - 3,
        tokens=500 * steps,
        peak_memory_bytes=round(memory * MIB),
        peak_memory_load_bytes=round(memory * MIB * 0.5),
        peak_memory_train_bytes=round(memory * MIB),
        peak_memory_eval_bytes=round(memory * MIB * 0.7),
        train_loss=loss - 0.02,
        eval_loss_before=4.0,
        eval_loss=loss,
    )


def write_study(
    folder: Path, swept: Mapping[str, Sequence[str]], **sections: Mapping[str, Any]
) -> StudyFolder:
    """The record of a study that was asked for and has not begun."""
    study = StudyFolder(folder)
    study.write_study(
        StudyRecord(
            name=folder.name,
            created_at=STARTED.isoformat(),
            command="python -m sweeper -m " + " ".join(f"{key}={','.join(swept[key])}" for key in swept),
            overrides=("train.steps=20",),
            swept={key: list(values) for key, values in swept.items()},
            config=configured({"train.steps": "20"}, **sections),
            cells=math.prod(map(len, swept.values())),
        )
    )
    return study


def write_trial(
    study: StudyFolder,
    number: int,
    overrides: Mapping[str, str],
    outcome: Outcome | None = Outcome.COMPLETED,
    reason: str | None = None,
    **changed: Any,
) -> None:
    """A trial's folder as its process leaves it; without an outcome it still runs."""
    folder = study.trial(number)
    config = configured({"train.steps": "20", **overrides})
    folder.write_spec(TrialSpec(study.path.name, number, digest(config), config, dict(overrides)))
    figures = dataclasses.replace(measured(overrides), **changed)
    if outcome not in (Outcome.INVALID, Outcome.PREDICTED_OOM):
        lines = "".join(json.dumps(line.to_json()) + "\n" for line in _progress(figures))
        folder.progress.write_text(lines, encoding="utf-8")
    if outcome is not None:
        seconds = 10 * number
        folder.write_result(
            TrialResult(
                outcome,
                reason if outcome is not Outcome.COMPLETED else None,
                figures if outcome is Outcome.COMPLETED else _what_is_left(figures, outcome),
                environment=ENVIRONMENT,
                definitions={"peak_memory_bytes": "highest sum of live tensors"},
                started_at=(STARTED + timedelta(seconds=seconds)).isoformat(),
                ended_at=(STARTED + timedelta(seconds=seconds + 9)).isoformat(),
            )
        )


def _what_is_left(figures: Measurements, outcome: Outcome) -> Measurements:
    """What a trial that did not complete may still have measured."""
    if outcome is Outcome.PRUNED:
        return dataclasses.replace(figures, eval_loss=None, train_loss=None)
    if outcome is Outcome.OUT_OF_MEMORY:
        return Measurements(peak_memory_bytes=figures.peak_memory_bytes)
    return Measurements()


def _progress(figures: Measurements) -> Iterator[TrialProgress]:
    steps, last = figures.steps or 0, figures.eval_loss or 2.0
    yield TrialProgress("phase", 0.1, phase="train")
    yield TrialProgress("eval", 0.2, loss=4.0)
    for step in range(1, steps + 1):
        loss = last + (4.0 - last) * 0.8**step
        yield TrialProgress("step", step, step, steps, loss=loss, tokens=500, step_time_s=figures.step_time_s)
    yield TrialProgress("eval", steps + 1, steps, loss=last)


def grid(swept: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """Every cell of a grid, in the order of the command line."""
    for values in itertools.product(*swept.values()):
        yield dict(zip(swept, values, strict=True))


METHODS = {
    "precision": ["fp32", "bf16"],
    "checkpointing": ["off", "on"],
    "optim": ["adamw", "bnb8"],
    "batch.micro": ["1", "4", "16"],
}


def methods_study(folder: Path, limit_gib: float = 2.6) -> StudyFolder:
    """A grid of methods; what needs more than the limit ran out of memory, one is pruned, one crashed."""
    study = write_study(folder, METHODS)
    for number, overrides in enumerate(grid(METHODS)):
        outcome, reason = Outcome.COMPLETED, None
        if (measured(overrides).peak_memory_bytes or 0) > limit_gib * GIB and number != 5:
            outcome, reason = Outcome.OUT_OF_MEMORY, "the trial needed more than its limit"
        elif number == 7:
            outcome, reason = (
                Outcome.CRASHED,
                "the trial's process ended without a result (killed by signal 9)",
            )
        elif number == 10:
            outcome, reason = Outcome.PRUNED, "its evaluation loss was above the median of the others"
        elif number == 5:
            outcome, reason = (
                Outcome.PREDICTED_OOM,
                "predicted to need more than the limit: trial 2 proved it",
            )
        write_trial(study, number, overrides, outcome, reason)
    return study
