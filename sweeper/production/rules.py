"""What must hold for a production run besides the rules of a trial. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.contract.config import Config
from sweeper.contract.trial import Problem

STATE_ELSEWHERE = ("layerwise", "lomo")
"""Parts of the names of optimizers that update inside the backward pass: their state cannot be kept."""


def check(config: Config) -> list[Problem]:
    """Every rule that the configuration breaks."""
    return [problem for rule in (_numbers, _loop, _optimizer, _name) for problem in rule(config)]


def _numbers(config: Config) -> Iterator[Problem]:
    for name in ("epochs", "steps", "checkpoint_every_steps", "keep_checkpoints", "patience"):
        value = getattr(config.production, name)
        if value is not None and value <= 0:
            key = f"production.{name}"
            yield Problem(f"{key} must be > 0", key, str(value), "give a value > 0")


def _loop(config: Config) -> Iterator[Problem]:
    if config.trainer != "accelerate":
        yield Problem(
            "a production run is made by the loop that can be resumed exactly",
            "trainer",
            config.trainer,
            "set trainer=accelerate (both loops show the same losses)",
        )


def _optimizer(config: Config) -> Iterator[Problem]:
    if any(part in config.optim for part in STATE_ELSEWHERE):
        yield Problem(
            "a production run needs an optimizer whose state can be kept in a checkpoint",
            "optim",
            config.optim,
            "take one that updates after the backward pass, such as adamw or adafactor",
        )


def _name(config: Config) -> Iterator[Problem]:
    name = config.production.name
    if name is not None and (not name.strip() or set(name) & set("/:")):
        yield Problem(
            "production.name must be a name that MLflow can register",
            "production.name",
            name,
            "leave slashes and colons out",
        )
