"""What a trial goes on from and what is left of it: the hooks by which a recipe becomes another one.

`Keeper` is that of a sweep's trial: it begins afresh, and the adapter is left. `trainers.production.run`
has the one of a production run.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from trainers.data.prepared import PreparedData
from trainers.evaluation.quality import Quality
from trainers.loops import Ending, Parts, Training
from trainers.methods.adapters import save_adapter
from trainers.record import Record


class Keeper:
    """The hooks, in the order in which `trainers.trial` calls them."""

    def __init__(self, folder: TrialFolder) -> None:
        self.folder = folder

    def take_up(self, record: Record) -> None:
        """Before anything is written: bring the record to where it was."""

    def configure(self, config: Config, data: PreparedData) -> Config:
        """The configuration with the amount of training and evaluation that is to be done."""
        return config

    def describe(self, parts: Parts, cache_dir: Path) -> dict[str, Any]:
        """Facts about what is trained that the record does not hold otherwise."""
        return {}

    def past_steps(self) -> dict[str, Any]:
        """The fields of `Recorder` that tell of steps that are done already."""
        return {}

    def attach(self, training: Training) -> Ending | None:
        """Before the first step: bring the training to where it was. Why no step is to be taken, or None."""
        return None

    def keep(self, step: int, loss: float) -> Ending | None:
        """After an evaluation during training. Why it is to end, or None."""
        return None

    def last_loss(self, step: int) -> float | None:
        """The evaluation loss after the last step if it is known already."""
        return None

    def choose_weights(self, model: nn.Module, loss: float) -> float:
        """Give the model the weights that are to be left, of those after the last step, whose evaluation
        loss is `loss`, and earlier ones; their evaluation loss."""
        return loss

    def save(self, parts: Parts, quality: Quality) -> int | None:
        """Write what is left of the trial; size of the adapter's weights in bytes, or None without one."""
        size = save_adapter(parts.model, self.folder.adapter)
        if not parts.config.trial.keep_adapter:
            shutil.rmtree(self.folder.adapter, ignore_errors=True)
        return size
