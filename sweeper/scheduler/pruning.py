"""Ending trials early: those that fall behind at equal tokens, and those too slow to be best.

Losses are compared at rungs of equal tokens: trials with other batch sizes evaluate elsewhere, so a
trial's loss at a rung is interpolated between its evaluations. The verdict is that of an Optuna pruner
over an in-memory study of these losses; a trial is ended only if its loss also breaks what the rule
allows, because a fast trial may be worse than the median and still be the best one.

A trial is too slow when it falls below `constraint.tokens_per_s`, or behind a trial that stays eligible
whatever is measured later. While `eval_loss_within` refers to the lowest loss of the study there is none:
a slower trial may yet lower that loss, disqualify the faster one, and be the best itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweeper.contract.config import Config, from_dict
from sweeper.contract.trial import Outcome, TrialProgress
from sweeper.ranking.objective import SPEED
from sweeper.ranking.rule import Rule
from sweeper.study.records import TrialRecord

if TYPE_CHECKING:
    import optuna

Z_95 = 1.96
"""Two-sided 95% quantile of the normal distribution."""
LEAST_STEPS = 6
"""Fewer values have no 95% interval of the median: 2 * 0.5**6 = 3% is the first below 5%."""
STARTUP_TRIALS = 3
"""Finished trials before the median pruner judges."""


@dataclass
class Course:
    """What one trial has shown so far."""

    warmup_steps: int
    tokens: int = 0
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    """Tokens trained on and evaluation loss."""
    speeds: list[float] = field(default_factory=list)
    """Tokens per second of each step after the warm-up."""
    rung: int = 0
    """Rungs that were judged."""

    def hear(self, line: TrialProgress) -> None:
        """Take in a line of progress."""
        if line.event == "step" and line.tokens is not None:
            self.tokens += line.tokens
            if line.step > self.warmup_steps and line.step_time_s:
                self.speeds.append(line.tokens / line.step_time_s)
        elif line.event == "eval" and line.loss is not None:
            self.evaluations.append((self.tokens, line.loss))

    def loss_at(self, tokens: float) -> float | None:
        """The loss at so many tokens, between the evaluations around it."""
        for (before, low), (after, high) in zip(self.evaluations, self.evaluations[1:], strict=False):
            if before <= tokens <= after and after > before:
                return low + (high - low) * (tokens - before) / (after - before)
        return None


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95% confidence interval of the median from order statistics; None for too few values.

    Distribution-free: the ranks n/2 -+ 1.96 sqrt(n)/2 (Conover, Practical Nonparametric Statistics, 3.2).
    """
    count = len(values)
    if count < LEAST_STEPS:
        return None
    ordered = sorted(values)
    below = max(1, math.floor(count / 2 - Z_95 * math.sqrt(count) / 2))
    return ordered[below - 1], ordered[count - below]


class Pruning:
    """Judges running trials by what all trials have shown."""

    def __init__(self, config: Config) -> None:
        """`pruner=none` judges nothing."""
        self._kind = config.pruner
        self._rule = Rule.of(config.objective, config.constraint)
        self._floor = _lowest_allowed_speed(self._rule)
        self._unit: float | None = None
        self._courses: dict[int, Course] = {}
        self._trials: dict[int, optuna.Trial] = {}
        self._best_at: dict[int, float] = {}
        self._baseline: Course | None = None
        """The course of the cell that `eval_loss_within` refers to."""
        self._best_speed = 0.0
        self._study = _loss_study(self._kind) if self._kind != "none" else None

    @property
    def is_on(self) -> bool:
        """Whether it judges anything."""
        return self._study is not None

    def begin(self, number: int, config: Config, is_baseline: bool = False) -> None:
        """A trial begins; `is_baseline`: of the cell that `constraint.baseline` names."""
        if self._study is None or config.trial.probe_steps is not None:
            return
        self._courses[number] = Course(config.trial.warmup_steps)
        self._trials[number] = self._study.ask()
        if is_baseline and self._baseline is None:
            self._baseline = self._courses[number]

    def hear(self, number: int, line: TrialProgress) -> str | None:
        """Take in a line of a running trial; why it should end, or None."""
        course = self._courses.get(number)
        if course is None:
            return None
        course.hear(line)
        if line.event == "step":
            return self._too_slow(course)
        return self._behind(number, course) if line.event == "eval" else None

    def end(self, record: TrialRecord, stays_eligible: bool) -> None:
        """A trial has ended; `stays_eligible`: it keeps every constraint, whatever is measured later."""
        from optuna.trial import TrialState

        if self._courses.pop(record.number, None) is None or self._study is None or record.result is None:
            return
        trial = self._trials.pop(record.number)
        speed, loss = record.metric("tokens_per_s"), record.metric("eval_loss")
        completed = record.result.outcome is Outcome.COMPLETED and loss is not None
        self._study.tell(trial, loss if completed else None, None if completed else TrialState.PRUNED)
        if stays_eligible and speed is not None:
            self._best_speed = max(self._best_speed, speed)

    def replay(self, record: TrialRecord, stays_eligible: bool, is_baseline: bool = False) -> None:
        """Take in a trial of an earlier run as if it ran now; one that never ran has no course."""
        if not record.progress:
            return
        self.begin(record.number, from_dict(record.spec.config), is_baseline)
        for line in record.progress:
            self.hear(record.number, line)
        self.end(record, stays_eligible)

    def _too_slow(self, course: Course) -> str | None:
        """The interval of its median speed lies below what it needs."""
        needed = max(self._floor, self._best_speed if self._rule.objective == SPEED else 0.0)
        interval = median_interval(course.speeds)
        if interval is None or interval[1] >= needed:
            return None
        return (
            f"hopeless: its median speed lies between {interval[0]:,.0f} and {interval[1]:,.0f} tokens/s "
            f"(95%), but {needed:,.0f} are needed"
        )

    def _behind(self, number: int, course: Course) -> str | None:
        """Judge every rung that the last evaluation passed."""
        if self._unit is None and len(course.evaluations) > 1:
            self._unit = float(course.evaluations[1][0])
        while self._unit and (loss := course.loss_at((course.rung + 1) * self._unit)) is not None:
            course.rung += 1
            trial = self._trials[number]
            trial.report(loss, course.rung)
            best = self._best_at[course.rung] = min(loss, self._best_at.get(course.rung, math.inf))
            tokens = course.rung * self._unit
            if trial.should_prune() and self._breaks_rule(loss, best, tokens):
                return (
                    f"behind: evaluation loss {loss:.4f} at {tokens:,.0f} tokens, where the best trial had "
                    f"{best:.4f} (pruner={self._kind})"
                )
        return None

    def _breaks_rule(self, loss: float, best: float, tokens: float) -> bool:
        """Where the loss is the objective, falling behind is enough; else it must exceed what the rule allows
        above its reference at so many tokens: the lowest loss, or that of the baseline."""
        if self._rule.metric == "eval_loss":
            return True
        reference: float | None = best
        if self._rule.baseline is not None:
            reference = self._baseline.loss_at(tokens) if self._baseline else None
        allowed = self._rule.allowed_loss(reference)
        return allowed is not None and loss > allowed


def _lowest_allowed_speed(rule: Rule) -> float:
    """The throughput that every eligible trial has; 0 where any is allowed."""
    floors = (item for item in rule.constraints if item.metric == SPEED.metric and not item.is_highest)
    return max((item.allowed or 0.0 for item in floors), default=0.0)


def _loss_study(kind: str) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner: optuna.pruners.BasePruner
    if kind == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
    elif kind == "asha":
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    else:
        pruner = optuna.pruners.HyperbandPruner(min_resource=1, reduction_factor=2)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(direction="minimize", sampler=sampler, pruner=pruner, study_name="losses")
