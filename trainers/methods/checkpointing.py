"""Gradient checkpointing: activations are made again in the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel, TrainingArguments

from sweeper.contract.config import Config
from trainers.methods.method import Cost, Facts, Method, compare
from trainers.model.probe import Probe

ARGUMENTS = {"use_reentrant": False}
"""Arguments of `torch.utils.checkpoint.checkpoint`: reentrant checkpointing needs inputs with gradients."""


def _set_up(base: PreTrainedModel, config: Config) -> None:
    if config.checkpointing:
        older = base.gradient_checkpointing_enable  # the name in older versions
        getattr(base, "activation_checkpointing_enable", older)(ARGUMENTS)


def _portable_arguments(config: Config) -> dict[str, Any]:
    """Here it is enabled on the model, and a Trainer that is asked for it would do so again."""
    names = ("activation_checkpointing", "gradient_checkpointing")  # the second in older versions
    name = next(name for name in names if name in TrainingArguments.__dataclass_fields__)
    values: dict[str, Any] = {name: config.checkpointing}
    return values | ({f"{name}_kwargs": ARGUMENTS} if config.checkpointing else {})


def _find_in_step(probe: Probe) -> dict[str, Any]:
    return {"recomputed": probe.recomputed()}


def _judge(config: Config, active: Facts) -> Iterator[str]:
    return compare(checkpointing=(active.get("recomputed"), config.checkpointing))


METHOD = Method(
    name="checkpointing",
    set_up=_set_up,
    portable_arguments=_portable_arguments,
    find_in_step=_find_in_step,
    judge=_judge,
    cost=Cost(repeated_forward=lambda config: 1.0 if config.checkpointing else 0.0),
)
