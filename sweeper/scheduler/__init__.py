"""Ask, launch, watch, record, tell."""

from __future__ import annotations

from sweeper.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
