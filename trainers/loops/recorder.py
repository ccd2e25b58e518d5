"""What every loop does around an optimizer step: time it, record it, and see whether to go on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.contract.speed import Speed, measure_speed
from sweeper.contract.trial import Outcome
from trainers.data.batches import Plan
from trainers.loops.parts import Training
from trainers.meters.journal import Journal
from trainers.meters.phases import Meters
from trainers.model.probe import Probe

STOP_OUTCOMES = (Outcome.PRUNED, Outcome.TIMED_OUT, Outcome.CANCELLED)
"""Outcomes that a `stop` file may ask for; anything else in it cancels the trial."""


@dataclass(frozen=True)
class Ending:
    """Why training ended before its last step."""

    outcome: Outcome
    reason: str


def read_stop(path: Path) -> Ending | None:
    """What the `stop` file asks for, or None while there is none."""
    try:
        asked = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        asked = {}
    known = asked.get("outcome") in STOP_OUTCOMES
    outcome = Outcome(asked["outcome"]) if known else Outcome.CANCELLED
    return Ending(outcome, str(asked.get("reason") or "the driver asked the trial to stop"))


@dataclass
class Recorder:
    """The steps of one training run, as both loops report them, after those it was made with.

    A loop calls `begin` once, then `end` after every optimizer step. A step's time runs from the end of
    `begin` or of the `end` before it, so that fetching its batches counts and recording does not.
    """

    plan: Plan
    meters: Meters
    journal: Journal
    stop_file: Path
    evaluate: Callable[[int], Ending | None]
    """Takes and records the evaluation loss after a step; says whether training ends with it."""
    evaluate_every: int | None
    probe: Probe
    judge: Callable[[], None] = lambda: None
    """Is called after the first step that was not skipped, when the probe has seen all that it watches for.
    What it raises ends the training."""
    attach: Callable[[Training], Ending | None] = lambda training: None
    """Is given the training before its first step; says whether it had ended before."""
    times_s: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Loss per target token of each step."""
    skipped_steps: int = 0
    updates: int = 0
    """Steps that had a learning rate above 0 and were not skipped."""
    ending: Ending | None = None
    _began_s: float = 0.0
    _is_judged: bool = False

    @property
    def steps(self) -> int:
        """Steps finished."""
        return len(self.times_s)

    def begin(self, training: Training) -> bool:
        """Start the clock of the first step. Whether there is one to take."""
        self.ending = self.attach(training)
        self._began_s = self.meters.idle_s()
        return self.ending is None

    def end(self, loss: Any, learning_rate: float, grad_norm: Any, skipped: bool) -> bool:
        """Record a step; `loss` and `grad_norm` may be tensors on the device. Whether to go on."""
        self.times_s.append(self.meters.idle_s() - self._began_s)
        self.losses.append(float(loss))
        self.skipped_steps += skipped
        self.updates += learning_rate > 0 and not skipped
        self.probe.close()
        self.journal.write(
            "step",
            step=self.steps,
            total_steps=self.plan.steps,
            loss=self.losses[-1],
            tokens=self.plan.tokens[self.steps - 1],
            step_time_s=self.times_s[-1],
            learning_rate=learning_rate,
            grad_norm=None if grad_norm is None else float(grad_norm),
        )
        self.ending = self._diverged() or self._stopped()
        if not (self._is_judged or skipped or self.ending):
            self._is_judged = True
            self.judge()
        if self.ending is None and self._evaluation_is_due():
            self.ending = self.evaluate(self.steps)
        self._began_s = self.meters.idle_s()
        return self.ending is None

    def _diverged(self) -> Ending | None:
        if math.isfinite(self.losses[-1]):
            return None
        return Ending(
            Outcome.DIVERGED,
            f"the loss must stay finite, but is {self.losses[-1]} at step {self.steps}: lower "
            "train.learning_rate, or train in fp32 or bf16",
        )

    def _stopped(self) -> Ending | None:
        """What the driver asks for. A training that is done cannot be pruned: it is measured completely."""
        asked = read_stop(self.stop_file)
        is_moot = asked is not None and asked.outcome is Outcome.PRUNED and self.steps == self.plan.steps
        return None if is_moot else asked

    def _evaluation_is_due(self) -> bool:
        every = self.evaluate_every
        return bool(every) and self.steps % (every or 1) == 0 and self.steps < self.plan.steps

    def train_loss(self) -> float | None:
        """Loss per target token over the last quarter of the planned steps, as far as they were taken."""
        last = max(1, self.steps // 4)
        losses = self.losses[-last:]
        targets = self.plan.targets[self.steps - len(losses) : self.steps]
        total = sum(loss * count for loss, count in zip(losses, targets, strict=True))
        return total / sum(targets) if targets else None

    def speed(self, warmup_steps: int) -> Speed:
        """Speed over the steps after the first `warmup_steps`."""
        measured, plan = slice(warmup_steps, self.steps), self.plan
        return measure_speed(plan.tokens[measured], self.times_s[measured], plan.padded_tokens[measured])
