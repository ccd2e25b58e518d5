"""Conditions between options: what a cell must hold for another option to be swept in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sweeper.config.hydra import groups
from sweeper.contract.study_config import SpaceConfig
from sweeper.contract.trial import Problem
from sweeper.space.dimensions import Choices, Dimension, Found, parsed, split

Terms = dict[str, frozenset[str]]
"""Option -> values: holds when every option has one of its values."""


@dataclass(frozen=True)
class Conditions:
    """What of the product of the dimensions is left out."""

    only_when: dict[str, Terms]
    never: tuple[Terms, ...]

    def active(self, values: Mapping[str, str], elsewhere: Mapping[str, str]) -> dict[str, str] | None:
        """The values without those whose condition fails; None when the combination is left out.

        `elsewhere` holds the values of options that are not swept.
        """
        kept = dict(values)
        for key, terms in self.only_when.items():
            if key in kept and not _holds(terms, {**elsewhere, **values}):
                del kept[key]
        whole = {**elsewhere, **kept}
        return None if any(_holds(terms, whole) for terms in self.never) else kept

    def named(self) -> set[str]:
        """Every option that a condition looks at."""
        looked_at = {key for terms in (*self.only_when.values(), *self.never) for key in terms}
        return looked_at | set(self.only_when)


def _holds(terms: Terms, values: Mapping[str, str]) -> bool:
    return all(plain(values.get(key, "")) in map(plain, allowed) for key, allowed in terms.items())


@lru_cache(4096)
def plain(text: str) -> str:
    """A value however it is written: a sweep over `true` and `1e-4` has the values `True` and `0.0001`."""
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        return repr(float(text))
    except ValueError:
        return text


def written(space: SpaceConfig) -> tuple[dict[str, Dimension], Conditions, Found]:
    """The space of the `space` group, in the words of the command line."""
    overrides, problems = parsed([f"{key}={text}" for key, text in space.sweep.items()])
    _, swept, more = split(overrides)
    one_value = [item for item in overrides if not item.is_sweep_override()]
    swept |= {item.get_key_element(): Choices((item.get_value_element_as_str(),)) for item in one_value}
    only_when = {key: terms(text) for key, text in space.only_when.items()}
    never = tuple(terms(text) for text in space.never)
    return swept, Conditions(only_when, never), problems + more


def terms(text: str) -> Terms:
    """Read `option=value,value option=value`."""
    pairs = (item.partition("=") for item in text.split())
    return {key: frozenset(values.split(",")) for key, _, values in pairs}


def condition_problems(
    conditions: Conditions, known: set[str], swept: Mapping[str, Dimension]
) -> Iterator[Problem]:
    """Conditions speak of options that exist and of values, and bind options that are swept."""
    options = groups()
    for key in sorted(conditions.named() - known):
        yield Problem(
            "a condition must name options that exist", "space", key, "see `python -m sweeper options`"
        )
    for key in sorted((conditions.only_when.keys() & known) - set(swept)):
        yield Problem("space.only_when must name options that are swept", "space.only_when", key, "sweep it")
    for term in (*conditions.only_when.values(), *conditions.never):
        for key, values in term.items():
            if not values - {""}:
                yield Problem("a condition must read option=value", "space", key, "name the values")
            elif key in options and (strange := sorted(values - _takes(options[key], swept.get(key)))):
                yield Problem(
                    "a condition must name values that the option takes",
                    "space",
                    f"{key}={','.join(strange)}",
                    f"take one of {', '.join(options[key])}",
                )


def _takes(options: Sequence[str], dimension: Dimension | None) -> frozenset[str]:
    """The values of a group that a condition may name."""
    return frozenset((*options, *(dimension.values if isinstance(dimension, Choices) else ())))
