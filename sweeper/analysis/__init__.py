"""A study judged."""

from __future__ import annotations

from sweeper.analysis.choice import choose
from sweeper.analysis.open import OpenStudy, open_study

__all__ = ["OpenStudy", "choose", "open_study"]
