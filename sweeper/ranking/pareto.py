"""The trials that no other one beats in every respect."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.ranking.objective import MEMORY, SPEED, Objective
from sweeper.study.records import TrialRecord

MEMORY_AND_SPEED = (MEMORY, SPEED)
"""What a front is drawn over where the study has no objectives of its own for it."""


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether gains are at least as good in every respect, and better in one."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def pareto_front(
    records: Sequence[TrialRecord], objectives: Sequence[Objective] = MEMORY_AND_SPEED
) -> list[TrialRecord]:
    """The records that no other beats in every objective, best in the first one first.

    Of records that are equal in all of them the first one stands for the others. By default the front of
    memory and speed, least memory first.
    """
    known = [
        (tuple(gain for gain in asked if gain is not None), record)
        for record in records
        if None not in (asked := [objective.of(record) for objective in objectives])
    ]
    front: list[tuple[tuple[float, ...], TrialRecord]] = []
    for gains, record in sorted(known, key=lambda item: item[0], reverse=True):
        if not any(dominates(better, gains) or better == gains for better, _ in front):
            front.append((gains, record))
    return [record for _, record in front]
