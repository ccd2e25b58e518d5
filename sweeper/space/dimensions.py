"""What one option may be: a list of values or a range of numbers. From Hydra's override grammar."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, RangeSweep
from hydra.errors import HydraException

from sweeper.config.hydra import groups
from sweeper.config.options import number_keys, whole_number_keys
from sweeper.config.validate import name_problems
from sweeper.contract.trial import Problem

ONE_PER_STUDY = (
    "study. tracking. hydra objective. constraint. hardware. strategy fidelity pruner slots space search. "
    "budget. repeats."
).split()
"""Options that have one value per study."""
MOST_VALUES = 100_000
"""Values of an option, and cells of a grid, that are listed; each takes some kilobytes in the driver."""


@dataclass(frozen=True)
class Choices:
    """Values as typed."""

    values: tuple[str, ...]

    def texts(self) -> list[str]:
        """The dimension for `study.json`."""
        return list(self.values)

    @property
    def ends(self) -> tuple[str, ...]:
        """Values that stand for all of them in checks made beforehand."""
        return self.values


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool
    integer: bool
    text: str
    """As typed."""

    def texts(self) -> list[str]:
        """The dimension for `study.json`."""
        return [self.text]

    @property
    def ends(self) -> tuple[str, ...]:
        """Values that stand for all of them in checks made beforehand."""
        return self.typed(self.low), self.typed(self.high)

    def typed(self, number: float) -> str:
        """The number as a user would type it; the text gives the very same number back."""
        return str(round(number)) if self.integer else repr(float(number))


Dimension = Choices | Interval

Found = list[tuple[Problem, str]]
"""Problems, each with the cell that it stands in ("" for the study as a whole)."""


def parsed(arguments: Sequence[str]) -> tuple[list[Any], Found]:
    """The overrides that can be used (Hydra's `Override`), and the problems of the others."""
    parser = OverridesParser.create()
    overrides: list[Any] = []
    problems: Found = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        said = f"search.n_trials={value}" if name == "hydra.sweeper.n_trials" else argument
        try:
            overrides.append(parser.parse_override(said))
        except HydraException as error:
            text = str(error).splitlines()[0]
            remedy = "write key=value; quote values that hold commas, brackets or spaces"
            problems.append((Problem(f"an override must parse: {text}", argument, argument, remedy), ""))
    unknown = name_problems(overrides)
    problems += [(problem, "") for _, problem in unknown]
    bad = {position for position, _ in unknown}
    return [item for position, item in enumerate(overrides) if position not in bad], problems


def split(overrides: Iterable[Any]) -> tuple[list[str], dict[str, Dimension], Found]:
    """Overrides that hold for every cell, what varies, and the problems."""
    fixed: list[str] = []
    swept: dict[str, Dimension] = {}
    overrides = list(overrides)
    problems: Found = [(problem, "") for problem in _given_twice(overrides)]
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(override.input_line or f"{key}={override.get_value_element_as_str()}")
        elif key.startswith(tuple(ONE_PER_STUDY)):
            problems.append((_one_per_study(override), ""))
        elif (problem := _kind_problem(override)) is not None:
            problems.append((problem, ""))
        else:
            dimension = _dimension(key, override)
            found = list(_range_problems(dimension, override))
            problems += [(problem, "") for problem in found]
            if not found:
                swept[key] = dimension
    return fixed, swept, problems


def _given_twice(overrides: Sequence[Any]) -> Iterator[Problem]:
    """Options that are given different values; the same value twice does no harm."""
    given: dict[str, list[str]] = {}
    for override in overrides:
        given.setdefault(override.get_key_element(), []).append(override.get_value_string())
    for key, values in given.items():
        if len(set(values)) > 1:
            remedy = f"write it once; several values to sweep are {key}=VALUE,VALUE"
            yield Problem("an option must be given once", key, " and ".join(dict.fromkeys(values)), remedy)


def _kind_problem(override: Any) -> Problem | None:
    """A pattern names no values, and only numbers have intervals."""
    key, text = override.key_or_group, override.input_line.partition("=")[2]
    if isinstance(override.value(), Glob):
        options = groups().get(key, [])
        remedy = f"list them: {key}={','.join(options[:3])},…" if options else "list the values with commas"
        return Problem("a sweep must list its values, not a pattern", key, text, remedy)
    if isinstance(override.value(), RangeSweep) and (problem := _count_problem(override.value(), key, text)):
        return problem
    if override.is_discrete_sweep() or key in number_keys():
        return None
    return Problem(
        "an interval needs an option that holds a number", key, text, "list the values with commas"
    )


def _count_problem(values: RangeSweep, key: str, text: str) -> Problem | None:
    if values.start is None or values.stop is None or not values.step:
        return Problem("a range needs a step that is not 0", key, text, "write range(low, high, step)")
    count = math.ceil((values.stop - values.start) / values.step)
    if count <= MOST_VALUES:
        return None
    remedy = f"widen its step, or search it: {key}=interval({values.start},{values.stop})"
    return Problem(
        f"an option is swept over at most {MOST_VALUES:,} values", key, f"{text}, {count:,}", remedy
    )


def _dimension(key: str, override: Any) -> Dimension:
    if override.is_discrete_sweep():
        return Choices(tuple(dict.fromkeys(override.sweep_string_iterator())))
    sweep = override.value()
    integer = isinstance(sweep.start, int) or key in whole_number_keys()
    text = override.input_line.partition("=")[2]
    return Interval(sweep.start, sweep.end, "log" in sweep.tags, integer, text)


def _range_problems(dimension: Dimension, override: Any) -> Iterator[Problem]:
    key, value = override.key_or_group, override.input_line.partition("=")[2]
    if isinstance(dimension, Choices):
        if not dimension.values:
            yield Problem("a sweep needs a value", key, value, "widen the range")
    elif not (math.isfinite(dimension.low) and math.isfinite(dimension.high)):
        yield Problem("the ends of an interval must be finite", key, value, "give two numbers")
    elif dimension.low >= dimension.high:
        yield Problem("an interval must begin below its end", key, value, "write interval(low, high)")
    elif dimension.log and dimension.low <= 0:
        yield Problem("a logarithmic interval must begin above 0", key, value, "raise its beginning")


def _one_per_study(override: Any) -> Problem:
    return Problem(
        "an option of the study as a whole cannot be swept",
        override.key_or_group,
        override.input_line,
        "give it one value",
    )
