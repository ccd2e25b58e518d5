"""What makes a trial best."""

from __future__ import annotations

from sweeper.ranking.ranking import rank
from sweeper.ranking.rule import Rule

__all__ = ["Rule", "rank"]
