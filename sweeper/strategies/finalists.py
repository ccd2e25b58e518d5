"""Measuring the best cells again, in turns, so that "best" comes with an interval."""

from __future__ import annotations

from sweeper.strategies.base import Plan, Proposal, Question, measured

STAGE = "finalists"


def finalists(question: Question) -> Plan[None]:
    """`repeats.runs` measurements of each of the `repeats.finalists` best cells, interleaved in time:
    what drifts with time meets all of them."""
    repeats = question.config.repeats
    while repeats.finalists and question.open:
        yield None  # the others are still running
    eligible = {trial.record.spec.key: trial.record for trial in question.ranking().trials if trial.rank}
    best = list(eligible.values())[: repeats.finalists]
    if len(best) < 1 or repeats.finalists < 1:
        return
    cells = [question.space.cell(record.spec.overrides) for record in best]
    known = [cell for cell in cells if cell is not None]
    question.say(f"{len(known)} finalists are measured {repeats.runs} times each, in turns")
    for repeat in range(1, repeats.runs):
        yield from measured([Proposal(cell, STAGE, repeat, prunable=False) for cell in known])
