"""What may vary, and every cell of it."""

from __future__ import annotations

from sweeper.space.expand import expand
from sweeper.space.space import Space

__all__ = ["Space", "expand"]
