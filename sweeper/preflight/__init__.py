"""What is known before a trial runs: identity, memory, time and the bill."""

from __future__ import annotations

from sweeper.preflight.inputs import Identities
from sweeper.preflight.memory import MemoryScreen

__all__ = ["Identities", "MemoryScreen"]
