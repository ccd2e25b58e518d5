"""Records become MLflow runs."""

from __future__ import annotations

from sweeper.tracking.tracker import Tracker

__all__ = ["Tracker"]
