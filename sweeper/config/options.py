"""The options as a flat list: their keys, types, ranges and meanings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

from omegaconf import OmegaConf

from sweeper.contract.config import Config


def keys() -> list[str]:
    """Every option of the schema by its dotted name."""
    return [name for name, _ in _leaves(Config, "")]


@cache
def whole_number_keys() -> frozenset[str]:
    """Options that hold whole numbers."""
    return frozenset(_whole_numbers(Config, ""))


@cache
def number_keys() -> frozenset[str]:
    """Options that may hold a number, and nothing but numbers and a word or None."""
    return frozenset(_numbers(Config, ""))


def _numbers(cls: type[Any], prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _numbers(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif {hint, *get_args(hint)} & {int, float} and hint is not bool:
            yield f"{prefix}{name}"


def _whole_numbers(cls: type[Any], prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _whole_numbers(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif hint in (int, int | None):
            yield f"{prefix}{name}"


def documentation() -> Iterator[tuple[str, Any, str]]:
    """Dotted name, default and docstring of every option."""
    defaults = OmegaConf.create(Config().to_dict())
    for name, text in _leaves(Config, ""):
        yield name, OmegaConf.select(defaults, name), text


def _leaves(cls: type[Any], prefix: str) -> Iterator[tuple[str, str]]:
    hints, texts = get_type_hints(cls), _docstrings(cls)  # type: ignore[arg-type]  # a class is hashable
    for item in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from _leaves(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", texts.get(item.name, "")


@cache
def _docstrings(cls: type[Any]) -> dict[str, str]:
    """The text under each field of a dataclass."""
    import ast
    import inspect

    (tree,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def leaves_of(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every option of a typed configuration by its dotted name."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            found |= leaves_of(value, f"{prefix}{item.name}.")
        else:
            found[f"{prefix}{item.name}"] = value
    return found


def with_leaves(config: Config, leaves: Mapping[str, Any]) -> Config:
    """The configuration with some options changed; unchanged sections are shared."""
    sections: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for key, value in leaves.items():
        section, dot, name = key.partition(".")
        if dot:
            sections.setdefault(section, {})[name] = value
        else:
            top[section] = value
    for section, values in sections.items():
        top[section] = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **top)
