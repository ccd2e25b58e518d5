"""What was really active in a trial, found in its modules, tensors and calls rather than its options.

A figure measured under the name of a method that did not take effect would be wrong: the trial ends
with `NotActiveError` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sweeper.contract.config import Config
from sweeper.contract.trial import TrialResult
from trainers.methods import METHODS, Facts
from trainers.model.layers import unwrap
from trainers.model.probe import Probe


class NotActiveError(RuntimeError):
    """A method that was asked for did not take effect. `result` holds what was measured and found."""

    def __init__(self, reasons: list[str], result: TrialResult) -> None:
        self.reasons = reasons
        self.result = result
        super().__init__("; ".join(reasons))


def describe_model(model: nn.Module, config: Config) -> dict[str, Any]:
    """Facts about the model as it stands before training."""
    facts = _merge(method.find_in_model(model, config) for method in METHODS)
    return {"model_class": type(unwrap(model)).__name__, **facts}


def describe_step(probe: Probe) -> dict[str, Any]:
    """Facts that the first optimizer step showed."""
    return _merge(method.find_in_step(probe) for method in METHODS)


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Facts about the optimizer after it took a step."""
    return _merge(method.find_in_optimizer(optimizer) for method in METHODS)


def find_mismatches(config: Config, active: Facts) -> list[str]:
    """Each method that was asked for and is not among what was found active.

    `active` may lack facts of steps that were never taken; those are not judged.
    """
    wrong = [reason for method in METHODS for reason in method.judge(config, active)]
    if active.get("weights_moved") is False:
        wrong.append("training must change the weights, but every trainable one is as it was at the start")
    return wrong


def find_qualifications(config: Config, active: Facts) -> dict[str, str]:
    """What has to be known to read figures under the names that were asked for."""
    return _merge(method.qualify(config, active) for method in METHODS)


def _merge(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for facts in found for name, value in facts.items()}
