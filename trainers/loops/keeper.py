"""What a loop asks while it trains: where to begin, and what to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass
class Training:
    """The parts of a running training that change from step to step."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: Any = None
    """The loss scaler of fp16, or None."""


class Keeper(Protocol):
    """What a loop needs to be resumed and kept."""

    @property
    def steps(self) -> int:
        """Optimizer steps that are done already."""

    def attach(self, training: Training) -> None:
        """Hear what is to be kept, and bring it to where it was after those steps."""
