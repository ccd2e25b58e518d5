"""What the trial promised against what the production run kept: speed, memory, and loss at equal tokens.

Pure functions over the two records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import mean, stdev

from sweeper.analysis.cells import MeasuredCell
from sweeper.analysis.noise import Interval, interval
from sweeper.contract.trial import TrialProgress
from sweeper.study.records import TrialRecord

WINDOW = 0.75
"""The loss is compared over the last quarter of the trial's tokens, of which `train_loss` is the mean too."""
NORMAL_95 = 1.96
"""Two-sided 95% quantile of the normal distribution."""
PEAK_NOISE = 0.05
"""Share by which the peak memory of equal runs may differ on a CPU, where it is resident memory."""
PEAK_NOISE_BYTES = 8 * 2**20
"""The least that it may differ by, however small the model: malloc keeps and returns memory as its threads
happen to meet. Equal runs of the embedded model were seen 6 MiB apart (peaks of 71 to 77 MiB)."""


@dataclass(frozen=True)
class Kept:
    """One figure of the trial beside the same figure of the production run."""

    metric: str
    promised: float
    kept: float
    low: float
    """Lowest value of `kept` that noise explains."""
    high: float
    note: str
    """What the two figures are and where the noise is taken from."""

    @property
    def is_outside(self) -> bool:
        """Whether the run differs from the trial by more than noise."""
        return not self.low <= self.kept <= self.high


def compare(cell: MeasuredCell, production: TrialRecord) -> list[Kept]:
    """The figures that both have. The records need their progress lines."""
    found = (_speed(cell, production), _peak(cell, production), _loss(cell.completed[0], production))
    return [kept for kept in found if kept is not None]


def _speed(cell: MeasuredCell, production: TrialRecord) -> Kept | None:
    metric = "tokens_per_s"
    promised, kept = cell.record.metric(metric), production.metric(metric)
    of_trial, own = interval(cell, metric), interval(MeasuredCell((production,), {}), metric)
    if promised is None or kept is None or of_trial is None or own is None:
        return None
    low, high = _widened(of_trial, kept, own)
    return Kept(metric, promised, kept, low, high, f"noise: both intervals; {of_trial.meaning()}")


def _widened(of_trial: Interval, kept: float, own: Interval) -> tuple[float, float]:
    """Where `kept` may lie so that its own interval still touches the trial's."""
    return of_trial.low - (own.high - kept), of_trial.high + (kept - own.low)


def _peak(cell: MeasuredCell, production: TrialRecord) -> Kept | None:
    """The peaks of training alone: a production run also keeps checkpoints and evaluates more often."""
    metric = "peak_memory_train_bytes"
    promised, kept = cell.record.metric(metric), production.metric(metric)
    if promised is None or kept is None:
        return None
    noise = max(promised * PEAK_NOISE, PEAK_NOISE_BYTES)
    least = f"{PEAK_NOISE_BYTES // 2**20} MiB"
    note = f"noise: {PEAK_NOISE:.0%}, at least {least}; more data can hold longer sequences"
    return Kept(metric, promised, kept, 0.0, promised + noise, note)


def _loss(trial: TrialRecord, production: TrialRecord) -> Kept | None:
    """Mean loss of the steps within the last quarter of the trial's tokens, in either run."""
    tokens = sum(line.tokens or 0 for line in _steps(trial))
    promised, kept = _window(_steps(trial), tokens), _window(_steps(production), tokens)
    if len(promised) < 2 or len(kept) < 2:
        return None
    error = math.hypot(*(stdev(losses) / math.sqrt(len(losses)) for losses in (promised, kept)))
    centre = mean(promised)
    half = NORMAL_95 * error
    note = (
        f"training loss from {round(WINDOW * tokens):,} to {tokens:,} tokens; noise: {NORMAL_95} standard "
        "errors of the steps; a longer schedule holds the learning rate up longer"
    )
    return Kept("train_loss", centre, mean(kept), centre - half, centre + half, note)


def _steps(record: TrialRecord) -> list[TrialProgress]:
    return [line for line in record.progress if line.event == "step"]


def _window(steps: Sequence[TrialProgress], tokens: int) -> list[float]:
    """Losses of the steps that end in the window; none when the run has not come that far."""
    ends = list(accumulate(line.tokens or 0 for line in steps))
    if not ends or ends[-1] < tokens:
        return []
    return [
        line.loss
        for line, end in zip(steps, ends, strict=True)
        if WINDOW * tokens < end <= tokens and line.loss is not None
    ]
