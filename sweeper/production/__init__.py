"""The best cell run for real."""

from __future__ import annotations

from sweeper.production.run import produce, take_order

__all__ = ["produce", "take_order"]
