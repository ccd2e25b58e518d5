"""Options of the prediction of memory. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MemoryConfig:
    """What is done with the predicted peak memory of a cell."""

    skip: Literal["never", "confident"] = "confident"
    """`confident`: a cell whose predicted peak exceeds `trial.memory_limit_gib` (on CUDA without one: the
    device's memory) by more than `margin` is not run; its outcome is `predicted_oom`. `never`: every cell
    is run."""
    margin: float = 0.1
    """How far a predicted peak may exceed the limit before its cell is skipped, as a share of the limit."""
