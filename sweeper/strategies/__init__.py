"""Who proposes the next cell. Each strategy is a generator (see `base`)."""

from __future__ import annotations

from sweeper.strategies.base import Proposal

__all__ = ["Proposal"]
