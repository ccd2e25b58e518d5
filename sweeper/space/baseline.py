"""The cell that `constraint.baseline` names, written as the space writes its cells: then both are known to be
the same trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sweeper.config.hydra import groups
from sweeper.config.options import keys
from sweeper.contract.trial import Problem
from sweeper.space.conditions import plain
from sweeper.space.dimensions import ONE_PER_STUDY, Choices, Dimension

KEY = "constraint.baseline"


def baseline_problems(text: str) -> Iterator[Problem]:
    """What is wrong with the words, whatever the space."""
    known = {*groups(), *keys()}
    for item in text.split() or [""]:
        key, _, value = item.partition("=")
        if not key or not value:
            rule = f"{KEY} must read option=value option=value"
            yield Problem(rule, KEY, text, "name the cell as the ranking does")
        elif key not in known:
            rule = f"{KEY} must name options that exist"
            yield Problem(rule, KEY, item, "see `python -m sweeper options`")
        elif key.startswith(tuple(ONE_PER_STUDY)):
            rule = f"{KEY} must name options of a trial"
            yield Problem(rule, KEY, item, "an option of the study as a whole has one value")


def baseline_cell(
    text: str, dimensions: Mapping[str, Dimension], elsewhere: Mapping[str, str]
) -> dict[str, str]:
    """Values of everything that is swept, and of what else the baseline sets to another value than the other
    cells have. `elsewhere`: the value of every option without any swept one."""
    said = {key: value for key, _, value in (item.partition("=") for item in text.split())}
    swept = {key: said.get(key, elsewhere.get(key, "")) for key in dimensions}
    own = {key: value for key, value in said.items() if key not in dimensions and value != elsewhere.get(key)}
    return {key: _as_listed(value, dimensions[key]) for key, value in swept.items()} | own


def _as_listed(value: str, dimension: Dimension) -> str:
    """The value as the list writes it."""
    values = dimension.values if isinstance(dimension, Choices) else ()
    return next((item for item in values if plain(item) == plain(value)), value)
