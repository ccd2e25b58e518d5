"""The batch: sequences per pass and passes per optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sweeper.contract.config import Config
from trainers.data.batches import batch_sizes
from trainers.methods.method import Facts, Method, compare
from trainers.model.probe import Probe


def _training_arguments(config: Config) -> dict[str, Any]:
    sizes = batch_sizes(config.batch)
    return {
        "per_device_train_batch_size": sizes.micro,
        "gradient_accumulation_steps": sizes.accumulation,
    }


def _find_in_step(probe: Probe) -> dict[str, Any]:
    return {
        "batch_micro": max(probe.micro_batches, default=None),
        "batch_accumulation": len(probe.micro_batches) or None,
        "batch_effective": sum(probe.micro_batches) or None,
    }


def _judge(config: Config, active: Facts) -> Iterator[str]:
    sizes = batch_sizes(config.batch)
    return compare(
        batch__micro=(active.get("batch_micro"), sizes.micro),
        batch__accumulation=(active.get("batch_accumulation"), sizes.accumulation),
    )


METHOD = Method(
    name="batch",
    training_arguments=_training_arguments,
    find_in_step=_find_in_step,
    judge=_judge,
)
