"""The cells that no other one beats in both speed and memory."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.records import TrialRecord


def pareto_front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records with more tokens/s than every record of at most their memory, least memory first."""
    known = [
        (peak, speed, record)
        for record in records
        if (peak := record.metric("peak_memory_bytes")) is not None
        if (speed := record.metric("tokens_per_s")) is not None
    ]
    front, fastest = [], float("-inf")
    for _, speed, record in sorted(known, key=lambda item: (item[0], -item[1])):
        if speed > fastest:
            front.append(record)
            fastest = speed
    return front
