"""The configuration of a cell: what Hydra would compose, at a fraction of its price.

Hydra takes a tenth of a second per composition. Here each swept value is composed or typed once, alone;
a cell is the base with the differences that its values make. Where that could go wrong (interpolations,
`+key`, two groups that set the same option) Hydra composes the cell itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweeper.config.hydra import groups
from sweeper.config.options import keys, leaves_of, with_leaves
from sweeper.config.validate import resolved, typed
from sweeper.contract.config import Config
from sweeper.contract.trial import Problem

Composed = tuple[Config | None, list[Problem]]
REMEMBERED = 4096
"""Values whose meaning is kept; a continuous range has no end of them."""


@dataclass(frozen=True)
class _Change:
    """What one override does to the base."""

    leaves: dict[str, Any]
    problems: tuple[Problem, ...] = ()


class Composer:
    """Composes the cells of one study. Needs an initialised Hydra."""

    def __init__(self, fixed: Sequence[str], config_name: str) -> None:
        """`fixed`: overrides that hold for every cell."""
        self._fixed = list(fixed)
        self.config_name = config_name
        self._groups = groups()
        self._keys = set(keys())
        self._changes: dict[tuple[str, str], _Change | None] = {}
        self._has_interpolations = False
        """Whether the base has any; known once it is composed."""
        self._parser = OverridesParser.create()

    def cell(self, overrides: Mapping[str, str]) -> Composed:
        """The configuration with these overrides, resolved, and what is wrong with it."""
        known = self._known_changes(overrides)
        if known is None:
            return self._by_hydra([f"{key}={text}" for key, text in overrides.items()])
        base, base_problems = self.base
        if base is None:
            return None, base_problems
        leaves: dict[str, Any] = {}
        for change in known:
            leaves |= change.leaves
        problems = [*base_problems, *(problem for change in known for problem in change.problems)]
        set_here = overrides.keys() - self._groups.keys()
        kept = [problem for problem in dict.fromkeys(problems) if problem.key not in set_here]
        own = [item for change in known for item in change.problems if item.key in set_here]
        return resolved(with_leaves(base, leaves)), [*kept, *dict.fromkeys(own)]

    def options_set(self, key: str, text: str) -> frozenset[str]:
        """The options that a choice of a group sets, besides those that are named like the group."""
        if key in self._keys and key not in self._groups:
            return frozenset()
        change = self._change(key, text) or self._look_at_group(key, text)
        name = key.lstrip("+")
        return frozenset(
            item
            for item in (change.leaves if change else ())
            if item != name and not item.startswith(f"{name}.")
        )

    @cached_property
    def base(self) -> Composed:
        """The typed configuration without any swept value."""
        raw, problem = self._raw
        return typed(raw) if raw is not None else (None, [problem] if problem else [])

    @cached_property
    def choices(self) -> dict[str, str]:
        """The value of every option and group without any swept value, as it would be typed."""
        from hydra import compose

        base = self.base[0] or Config()
        values = {key: _as_typed(value) for key, value in leaves_of(base).items()}
        composed = compose(self.config_name, overrides=self._fixed, return_hydra_config=True)
        chosen = OmegaConf.to_container(composed.hydra.runtime.choices)
        assert isinstance(chosen, dict)
        return values | {str(key): str(value) for key, value in chosen.items() if key in self._groups}

    @cached_property
    def _raw(self) -> tuple[dict[str, Any] | None, Problem | None]:
        return self._compose([])

    def _compose(self, overrides: Sequence[str]) -> tuple[dict[str, Any] | None, Problem | None]:
        from hydra import compose

        try:
            composed = compose(self.config_name, overrides=[*self._fixed, *overrides])
            plain = OmegaConf.to_container(composed, resolve=True)
            if not overrides:
                self._has_interpolations = OmegaConf.to_container(composed, resolve=False) != plain
        except (HydraException, OmegaConfBaseException) as error:
            text = " ".join(str(error).split())
            rule, remedy = "the configuration must compose", "`--cfg job` shows what Hydra makes of it"
            return None, Problem(rule, "Hydra's answer", text, remedy)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}, None

    def _by_hydra(self, overrides: Sequence[str]) -> Composed:
        raw, problem = self._compose(overrides)
        if raw is None:
            return None, [problem] if problem else []
        config, problems = typed(raw)
        return (None if config is None else resolved(config)), problems

    def _known_changes(self, overrides: Mapping[str, str]) -> list[_Change] | None:
        """What the overrides do, groups first as in Hydra; None where only Hydra can say."""
        if self._raw[0] is not None and self._has_interpolations:
            return None
        ordered = sorted(overrides.items(), key=lambda item: item[0] not in self._groups)
        changes = [self._change(key, text) for key, text in ordered]
        known = [change for change in changes if change is not None]
        if len(known) < len(changes):
            return None
        of_groups = [
            change.leaves for (key, _), change in zip(ordered, known, strict=True) if key in self._groups
        ]
        names = [name for leaves in of_groups for name in leaves]
        return known if len(names) == len(set(names)) else None

    def _change(self, key: str, text: str) -> _Change | None:
        if (key, text) not in self._changes:
            if len(self._changes) >= REMEMBERED:
                self._changes.clear()
            self._changes[key, text] = self._look(key, text)
        return self._changes[key, text]

    def _look(self, key: str, text: str) -> _Change | None:
        if key in self._groups:
            return self._look_at_group(key, text)
        return self._look_at_option(key, text) if key in self._keys else None

    def _look_at_group(self, key: str, text: str) -> _Change | None:
        raw, problem = self._compose([f"{key}={text}"])
        base = self.base[0]
        if raw is None or base is None:
            return _Change({}, (problem,) if problem else ())
        config, problems = typed(raw)
        if config is None:
            return None
        before = leaves_of(base)
        changed = {name: value for name, value in leaves_of(config).items() if value != before[name]}
        return _Change(changed, tuple(item for item in problems if item not in self.base[1]))

    def _look_at_option(self, key: str, text: str) -> _Change | None:
        raw = self._raw[0]
        value = self._parser.parse_override(f"{key}={text}").value()
        if raw is None or (isinstance(value, str) and "${" in value):
            return None
        changed = copy.copy(raw)
        *sections, name = key.split(".")
        inner = changed
        for section in sections:
            inner[section] = dict(inner[section])
            inner = inner[section]
        inner[name] = value
        config, problems = typed(changed)
        if config is None:
            return None
        own = tuple(item for item in problems if item.key == key)
        return _Change({key: leaves_of(config)[key]}, own)


def _as_typed(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
