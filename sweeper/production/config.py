"""The configuration of a production run: that of a trial, exactly as it ran, with overrides over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweeper.config.cell import ConfigurationError
from sweeper.config.hydra import initialized_hydra
from sweeper.config.options import keys
from sweeper.config.rules import check
from sweeper.config.validate import name_problems, resolved, typed
from sweeper.contract.config import BatchConfig, Config
from sweeper.contract.trial import Problem
from sweeper.machine import machine
from sweeper.production import rules

WHOLE = {"data.max_train_examples": None, "data.max_eval_examples": None, "trial.probe_steps": None}
"""What a study leaves out to be quick is used when it counts: all data, and all steps after a probe's."""


def production_config(trial: dict[str, Any], arguments: Sequence[str]) -> Config:
    """The configuration of a trial under the overrides of a command line, checked.

    An override of a group (`data=jsonl`) replaces that whole section. Raises ConfigurationError with every
    problem.
    """
    said = _parsed(arguments)
    touched = {name: value for name, value in _composed(arguments).items() if _is_touched(name, said)}
    values = OmegaConf.create(trial)
    for name, value in {**WHOLE, **_derived_batch(touched), **touched}.items():
        OmegaConf.update(values, name, value, force_add=True)
    plain = OmegaConf.to_container(values, resolve=True)
    assert isinstance(plain, dict)
    config, problems = typed({str(name): value for name, value in plain.items()})
    if config is not None:
        config = resolved(config)
        problems += check(config, machine()) + rules.check(config)
    if problems or config is None:
        raise ConfigurationError([(problem, "") for problem in problems])
    return config


def _parsed(arguments: Sequence[str]) -> list[str]:
    """The keys that the arguments set."""
    problems: list[Problem] = []
    overrides = []
    for argument in arguments:
        try:
            overrides.append(OverridesParser.create().parse_override(argument))
        except HydraException as error:
            rule = f"an override must parse: {str(error).splitlines()[0]}"
            problems.append(Problem(rule, argument, argument, "write key=value"))
    problems += [problem for _, problem in name_problems(overrides)]
    swept = [override for override in overrides if override.is_sweep_override()]
    problems += [
        Problem(
            "a production run is one configuration",
            str(item.key_or_group),
            str(item.input_line),
            "give one value",
        )
        for item in swept
    ]
    if problems:
        raise ConfigurationError([(problem, "") for problem in problems])
    return [str(override.key_or_group) for override in overrides]


def _composed(arguments: Sequence[str]) -> dict[str, Any]:
    """Every option by its dotted name, as Hydra composes the arguments over the defaults."""
    from hydra import compose

    try:
        with initialized_hydra():
            composed = compose("config", overrides=list(arguments))
    except (HydraException, OmegaConfBaseException) as error:
        rule = f"Hydra must be able to compose the configuration: {' '.join(str(error).split())}"
        raise ConfigurationError([(Problem(rule, "-", "-", ""), "")]) from None
    return {name: OmegaConf.select(composed, name) for name in keys()}


def _is_touched(name: str, said: Sequence[str]) -> bool:
    return any(name == key or name.startswith(f"{key}.") for key in said)


def _derived_batch(touched: dict[str, Any]) -> dict[str, Any]:
    """A trial's three batch options agree; with one of them changed, the unsaid ones are derived anew."""
    said = {item.name for item in dataclasses.fields(BatchConfig) if f"batch.{item.name}" in touched}
    if said & {"micro", "effective"} and "accumulation" not in said:
        return {"batch.accumulation": None}
    if "accumulation" in said and "effective" not in said:
        return {"batch.effective": None}
    return {}
