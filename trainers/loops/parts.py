"""What a training is made of: what a loop is given, and what of it changes from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainingArguments

from sweeper.contract.config import Config
from trainers.data.batches import Plan
from trainers.data.prepared import PreparedData


@dataclass(frozen=True)
class Parts:
    """All that a loop needs to carry out a plan."""

    config: Config
    plan: Plan
    data: PreparedData
    model: nn.Module
    arguments: TrainingArguments
    optimizer: Optimizer


@dataclass(frozen=True)
class Training:
    """The parts of a running training that change from step to step."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: Any = None
    """The loss scaler of fp16, or None."""
