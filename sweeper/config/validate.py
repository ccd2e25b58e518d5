"""What Hydra composed becomes a typed `Config`; every mistake is found at once."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

from hydra.core.override_parser.types import Glob
from omegaconf import OmegaConf

from sweeper.config.hydra import MAPPINGS, groups, own_groups
from sweeper.config.options import keys
from sweeper.contract.config import DEFAULT_EFFECTIVE_BATCH, DEFAULT_STEPS, MISSING, BatchConfig, Config
from sweeper.contract.study_config import DEFAULT_OBJECTIVE
from sweeper.contract.trial import Problem

MOST_TOLD = 200
"""Choices of a group that are looked at; no group has as many, and `range(1,100000000)` names none."""


def name_problems(overrides: Sequence[Any]) -> list[tuple[int, Problem]]:
    """Overrides (Hydra's parsed `Override`s) whose key or group choice does not exist, by position."""
    known_groups, known_keys = groups(), keys()
    found = []
    for position, override in enumerate(overrides):
        key = override.key_or_group
        if key.startswith("hydra") or override.package is not None:
            continue
        if key in known_groups:
            found += [(position, problem) for problem in _group_problems(override)]
            found += [(position, problem) for problem in _choice_problems(override, known_groups[key])]
        elif key not in known_keys:
            found.append((position, _unknown_key(override, [*known_keys, *known_groups])))
    return found


def _group_problems(override: Any) -> Iterator[Problem]:
    """A group of our own has an option already, another's has none before it is added."""
    key, value = override.key_or_group, override.get_value_string()
    if override.is_add() and key in own_groups():
        yield Problem(f"{key} has an option already", f"+{key}", value, f"write {key}={value}")
    elif not override.is_add() and key not in own_groups() and not override.is_force_add():
        yield Problem(f"{key} has no option that could be replaced", key, value, f"write +{key}={value}")


def _choice_problems(override: Any, options: list[str]) -> Iterator[Problem]:
    swept = override.is_sweep_override()
    if swept and (not override.is_discrete_sweep() or isinstance(override.value(), Glob)):
        return
    told = itertools.islice(override.sweep_string_iterator(), MOST_TOLD) if swept else ()
    values = list(told) if swept else [override.get_value_element_as_str()]
    for value in values:
        if value not in options:
            near = difflib.get_close_matches(value, options, n=3) or options[:8]
            yield Problem(
                f"{override.key_or_group} must name one of its options",
                override.key_or_group,
                value,
                f"take one of {', '.join(near)}",
            )


def _unknown_key(override: Any, known: list[str]) -> Problem:
    key = override.key_or_group
    near = _find_near(key, known)
    sections = {name.partition(".")[0] for name in known if "." in name}
    mapping = next((name for name in MAPPINGS if key.startswith(f"{name}.")), None)
    if key in sections:
        rule, remedy = "a section takes no value", f"set one of its options, such as {_first(key, known)}"
    elif mapping:
        rule = f"{mapping} takes its options in braces"
        remedy = f"write \"{mapping}={{{key.removeprefix(f'{mapping}.')}: '…'}}\""
    else:
        rule = "the option must exist"
        remedy = f"take {' or '.join(dict.fromkeys(near))}" if near else "see `python -m sweeper options`"
    return Problem(rule, key, override.get_value_string(), remedy)


def _find_near(key: str, known: list[str]) -> list[str]:
    """The options that may be meant, nearest first: alike in a section that is alike, or almost equal in
    another one."""
    found = sorted(((_likeness(key, name), name) for name in known), key=lambda item: (-item[0], item[1]))
    return [name for likeness, name in found if likeness > 0][:3]


def _likeness(key: str, name: str) -> float:
    """0 for names that nobody takes for one another, else up to 1."""
    (section, _, last), (other, _, part) = key.rpartition("."), name.rpartition(".")
    likeness = difflib.SequenceMatcher(None, last, part).ratio()
    if section == other and (last.startswith(part) or part.startswith(last)):
        return max(likeness, 0.75)  # lora.rank, study.nam
    is_near = difflib.SequenceMatcher(None, section, other).ratio() >= 0.7 if section else not other
    if likeness < (0.6 if is_near else 0.75):
        return 0.0
    return likeness if section == other else 0.7 * likeness


def _first(section: str, known: list[str]) -> str:
    return next(name for name in known if name.startswith(f"{section}."))


def typed(composed: Mapping[str, Any]) -> tuple[Config | None, list[Problem]]:
    """Check a composed configuration against the schema. The problems are those of all options.

    The configuration has defaults in place of what is wrong, so that further checks can go on; it is
    None when even that does not help.
    """
    from pydantic import ValidationError

    missing = [name for name, value in _flat(composed) if value == MISSING]
    problems = [Problem("the option must be set", name, MISSING, f"give {name}=…") for name in missing]
    try:
        config = _adapter().validate_python(_with_defaults(composed, missing) if missing else composed)
    except ValidationError as error:
        found = [_type_problem(item) for item in error.errors()]
        problems += [problem for problem in found if problem.key not in missing]
        try:
            config = _adapter().validate_python(_with_defaults(composed, [item.key for item in problems]))
        except ValidationError:
            config = None
    return config, problems


def _with_defaults(composed: Mapping[str, Any], names: list[str]) -> Any:
    """The configuration with the schema's default for each name, and without names it does not know."""
    values = OmegaConf.create(dict(composed))
    defaults = OmegaConf.create(Config().to_dict())
    for name in names:
        OmegaConf.update(values, name, OmegaConf.select(defaults, name), force_add=True)
    return OmegaConf.to_container(values, resolve=True)


@cache
def _adapter() -> Any:
    from pydantic import ConfigDict, TypeAdapter

    hints = get_type_hints(Config)
    sections: list[Any] = [hint for hint in hints.values() if dataclasses.is_dataclass(hint)]
    for cls in (Config, *sections):
        cls.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    return TypeAdapter(Config)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _type_problem(error: Any) -> Problem:
    key = ".".join(str(part) for part in error["loc"] if re.fullmatch(r"[a-z_0-9]+", str(part)))
    key = re.sub(r"\.(str|tuple|int|float|bool)(\..*)?$", "", key)
    rule = error["msg"][0].lower() + error["msg"][1:]
    near = _find_near(key, keys())
    unknown = error["type"] == "unexpected_keyword_argument"
    remedy = f"take {' or '.join(near) or 'another option'}" if unknown else "give a value of that type"
    if error["type"] == "string_type" and isinstance(error["input"], int | float):
        remedy = f"quote it twice: \"{key}='{error['input']}'\""
    return Problem("the option must exist" if unknown else rule, key, str(error["input"]), remedy)


def resolved(config: Config) -> Config:
    """The configuration with every derived value filled in: batch sizes, steps, objective."""
    train, objective = config.train, config.objective
    if train.steps is None and train.token_budget is None:
        train = dataclasses.replace(train, steps=DEFAULT_STEPS)
    if not objective.maximize and not objective.minimize:
        objective = dataclasses.replace(objective, maximize=DEFAULT_OBJECTIVE)
    return dataclasses.replace(config, batch=_resolved_batch(config.batch), train=train, objective=objective)


def _resolved_batch(batch: BatchConfig) -> BatchConfig:
    effective, accumulation = batch.effective, batch.accumulation
    if batch.micro == "auto":
        return BatchConfig("auto", effective or DEFAULT_EFFECTIVE_BATCH, accumulation)
    if effective is None:
        effective = batch.micro * accumulation if accumulation else DEFAULT_EFFECTIVE_BATCH
    if accumulation is None:
        accumulation = max(1, effective // max(1, batch.micro))
    return BatchConfig(batch.micro, effective, accumulation)
