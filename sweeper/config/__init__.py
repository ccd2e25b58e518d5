"""Overrides become one typed configuration, with every mistake at once."""

from __future__ import annotations

from sweeper.config.cell import Cell, ConfigurationError

__all__ = ["Cell", "ConfigurationError"]
