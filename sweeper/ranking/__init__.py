"""What makes a trial best."""

from __future__ import annotations

from sweeper.ranking.constraint import Constraint
from sweeper.ranking.objective import Objective
from sweeper.ranking.ranking import rank
from sweeper.ranking.rule import Rule

__all__ = ["Constraint", "Objective", "Rule", "rank"]
