"""Loss curves over tokens, so that trials with other batches or steps are compared at equal work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from sweeper.study.records import TrialRecord
from sweeper.study.writing import thin

POINTS_IN_ALL = 12_000
"""More points make a page slow to open; longer curves are thinned evenly."""
POINTS = (8, 120)
"""At least and at most this many of a curve."""
WINDOW = 0.25
"""Share of the tokens before a point over which its training loss is averaged, as in `train_loss`."""


@dataclass(frozen=True)
class Curve:
    """The losses of one trial over the tokens that it was trained on."""

    record: TrialRecord
    tokens: list[int]
    losses: list[float]
    evaluated_at: list[int]
    evaluations: list[float]

    def at(self, tokens: float) -> float | None:
        """Mean training loss over the quarter of the tokens before a point; None beyond the curve."""
        if not self.tokens or self.tokens[-1] < tokens:
            return None
        pairs = zip(self.tokens, self.losses, strict=True)
        window = [loss for reached, loss in pairs if tokens * (1 - WINDOW) <= reached <= tokens]
        return sum(window) / len(window) if window else None


def curve(record: TrialRecord) -> Curve | None:
    """The curve of a trial; None when it logged no step."""
    steps = [line for line in record.progress if line.event == "step" and line.loss is not None]
    if not steps:
        return None
    tokens = list(accumulate(line.tokens or 0 for line in steps))
    reached = {0: 0, **{line.step: total for line, total in zip(steps, tokens, strict=True)}}
    evaluations = [
        (reached[line.step], line.loss)
        for line in record.progress
        if line.event == "eval" and line.loss is not None and line.step in reached
    ]
    losses = [line.loss for line in steps if line.loss is not None]
    return Curve(record, tokens, losses, [at for at, _ in evaluations], [loss for _, loss in evaluations])


def thinned(curves: Sequence[Curve]) -> list[Curve]:
    """The curves with as many points as a page can show."""
    fewest, most = POINTS
    share = max(fewest, min(most, POINTS_IN_ALL // max(1, len(curves))))
    return [_thinned(item, share) for item in curves]


def _thinned(item: Curve, most: int) -> Curve:
    return replace(item, tokens=thin(item.tokens, most), losses=thin(item.losses, most))


def common_tokens(curves: Sequence[Curve]) -> int | None:
    """The number of tokens that every curve reaches."""
    return min((item.tokens[-1] for item in curves), default=None)
