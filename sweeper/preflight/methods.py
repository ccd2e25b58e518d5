"""Which methods run on a machine, and why the others do not: the rules asked about each method by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from sweeper.config.rules import check
from sweeper.contract.config import Config
from sweeper.contract.trial import Problem
from sweeper.machine import Machine

SWITCHES = ("adapter", "quantization", "checkpointing", "precision", "attention", "optim", "trainer")
"""The options that choose a method, as README lists them; the others of its table hold numbers."""
OPTIMIZERS = ("adamw", "adamw_fused", "adafactor", "bnb8", "paged_bnb8")
"""Those with a file in conf/optim."""


@dataclass(frozen=True)
class Method:
    """One method on one machine."""

    override: str
    """How it is asked for."""
    problems: tuple[Problem, ...]
    """Why it does not run; empty when it does."""


def judge_methods(machine: Machine) -> list[Method]:
    """Every method, held against the rules beside the defaults; on the CPU where no GPU can be used."""
    on_cpu = dataclasses.replace(Config().trial, device="cpu")
    base = dataclasses.replace(Config(), trial=on_cpu) if find_general_problems(machine) else Config()
    general = check(base, machine)
    found = []
    for key, value in _choices():
        answers = [
            [problem for problem in check(config, machine) if problem not in general]
            for config in _tried(base, key, value)
        ]
        fewest: list[Problem] = min(answers, key=len)
        found.append(Method(f"{key}={_written(value)}", tuple(fewest)))
    return found


def find_general_problems(machine: Machine) -> list[Problem]:
    """What keeps every method from running: the machine's trouble."""
    return check(Config(), machine)


def _choices() -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(Config)
    for key in SWITCHES:
        values = OPTIMIZERS if key == "optim" else get_args(hints[key]) or (False, True)
        yield from ((key, value) for value in values)


def _tried(base: Config, key: str, value: Any) -> Iterator[Config]:
    """The method under each arithmetic that it may need: an attention kernel need not run in float32."""
    config = dataclasses.replace(base, **{key: value})
    if key == "precision":
        yield config
        return
    for precision in ("fp32", "bf16", "fp16"):
        yield dataclasses.replace(config, precision=precision)


def _written(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)
