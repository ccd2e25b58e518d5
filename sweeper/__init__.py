"""Find the combination of training optimisations that fine-tunes an LLM fastest in given memory."""

from __future__ import annotations

__version__ = "0.1.0"
