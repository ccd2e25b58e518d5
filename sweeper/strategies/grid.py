"""Every cell once."""

from __future__ import annotations

from sweeper.strategies.base import Plan, Proposal, Question


def grid(question: Question) -> Plan[None]:
    """The cells in the order in which they were typed, the last option varying fastest."""
    for cell in question.space.cells:
        yield Proposal(cell)
