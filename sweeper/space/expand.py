"""A space becomes its cells."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeper.config.cell import Cell, ConfigurationError
from sweeper.config.compose import Composer
from sweeper.config.hydra import groups
from sweeper.config.options import keys
from sweeper.contract.config import Config
from sweeper.contract.trial import Problem
from sweeper.machine import Machine
from sweeper.space.baseline import KEY as BASELINE
from sweeper.space.baseline import baseline_cell, baseline_problems
from sweeper.space.conditions import condition_problems, written
from sweeper.space.dimensions import MOST_VALUES, Choices, Dimension, Found, Interval, parsed, split
from sweeper.space.rules import check_measured, check_study
from sweeper.space.space import FOUND_BY_PAPER, TRIES, Space


def expand(arguments: Sequence[str], config_name: str, machine: Machine, reads: bool = False) -> Space:
    """Compose, type and check what a command line asks for: every cell of a grid, or a search space.

    `reads`: nothing is run here, so that it does not matter what this machine could measure.

    Needs an initialised Hydra (`hydra.main` or `hydra.initialize_config_dir`). Raises ConfigurationError
    with every problem of every cell.
    """
    overrides, problems = parsed(arguments)
    fixed, swept, more = split(overrides)
    problems += more
    fixed = _with_default_space(fixed, swept)
    composer = Composer(fixed, config_name)
    base, base_problems = composer.cell({})
    if base is None:  # nor does any cell compose
        raise ConfigurationError([*problems, *((item, "") for item in base_problems)])
    config = base
    dimensions, conditions, more = written(config.space)
    dimensions |= _held(overrides, dimensions, config) | swept
    problems += more
    known = {*groups(), *keys()}
    problems += [(item, "") for item in condition_problems(conditions, known, dimensions)]
    bare = Space(tuple(fixed), dimensions, conditions, (), config, "", composer, machine)
    strategy = _strategy(bare)
    problems += [(item, "") for item in check_study(config, dimensions, strategy)]
    space = Space(tuple(fixed), dimensions, conditions, (), config, strategy, composer, machine)
    if not reads:
        problems += [(item, "") for item in check_measured(config, dimensions, machine)]
        space, more = _with_baseline(space)
        problems += more
    cells, more = _grid(space) if strategy == "grid" else _representatives(space)
    problems += more or ([] if cells else [(item, "") for item in base_problems])
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)), cells)
    return replace(space, cells=tuple(cells))


def _with_baseline(space: Space) -> tuple[Space, Found]:
    """The space with `constraint.baseline` written as one of its cells, and what is wrong with that cell."""
    constraint = space.config.constraint
    text = constraint.baseline
    if text is None or any(True for _ in baseline_problems(text)) or space.composer.base[0] is None:
        return space, []  # `check_study` tells
    made = space.made(baseline_cell(text, space.dimensions, space.composer.choices))
    if made is None:
        rule = f"{BASELINE} must name a cell that is not left out"
        return space, [(Problem(rule, BASELINE, text, "name another cell, or change space.never"), "")]
    cell, found = made
    if cell is None or found:
        return space, [(problem, f"{BASELINE}: {text}") for problem in found]
    label = " ".join(f"{key}={value}" for key, value in cell.overrides.items())
    constraint = replace(constraint, baseline=label)
    return replace(space, config=replace(space.config, constraint=constraint)), []


def _with_default_space(fixed: list[str], swept: Mapping[str, Dimension]) -> list[str]:
    """`strategy=paper` and `strategy=joint` have a space of their own where none is given."""
    asked = {"strategy=paper", "strategy=joint"} & set(fixed)
    given = swept or any(item.startswith("space=") for item in fixed)
    return [*fixed, "space=paper"] if asked and not given else fixed


def _held(overrides: Sequence[Any], written: Mapping[str, Dimension], config: Config) -> dict[str, Dimension]:
    """Options that would vary, but have one value on the command line: it holds for every cell."""
    varied = {*written, *(FOUND_BY_PAPER if config.strategy == "paper" else ())}
    return {
        item.key_or_group: Choices((item.get_value_element_as_str(),))
        for item in overrides
        if item.key_or_group in varied and not item.is_sweep_override() and item.value() is not None
    }


def _strategy(space: Space) -> str:
    if space.config.strategy != "auto":
        return space.config.strategy
    continuous = any(isinstance(item, Interval) for item in space.dimensions.values())
    return "search" if continuous or space.config.search.n_trials is not None else "grid"


def _grid(space: Space) -> tuple[list[Cell], Found]:
    """Every cell once; a broken rule anywhere is a mistake."""
    if space.size > MOST_VALUES:
        rule, remedy = (
            f"a grid has at most {MOST_VALUES:,} cells",
            "narrow it, or search it: search.n_trials=N",
        )
        return [], [(Problem(rule, "the number of cells", f"{space.size:,}", remedy), "")]
    cells: dict[str, Cell] = {}
    problems: Found = []
    for values in space.combinations():
        made = space.made(values)
        if made is None:
            continue
        cell, found = made
        label = " ".join(f"{key}={value}" for key, value in values.items())
        problems += [(problem, label) for problem in found]
        if cell is not None:
            cells[cell.label] = cell
    if not cells and not problems:
        problems = [(_nothing_left(space), "")]
    return list(cells.values()), problems


def _representatives(space: Space) -> tuple[list[Cell], Found]:
    """For every value a cell that holds it, checked; a value that no cell can hold is a mistake."""
    cells: dict[str, Cell] = {}
    problems: Found = []
    first = {key: dimension.ends[0] for key, dimension in space.dimensions.items()}
    for values in _one_at_a_time(space, first):
        cell, found = _holder(space, first, values)
        problems += [(problem, " ".join(f"{k}={v}" for k, v in values.items())) for problem in found]
        if cell is not None:
            cells[cell.label] = cell
    if not cells and not problems:
        problems = [(_nothing_left(space), "")]
    return list(cells.values()), problems


def _one_at_a_time(space: Space, first: Mapping[str, str]) -> Iterator[dict[str, str]]:
    yield {}
    for key, dimension in space.dimensions.items():
        yield from ({key: value} for value in dimension.ends if value != first[key])


def _holder(
    space: Space, first: Mapping[str, str], wanted: Mapping[str, str]
) -> tuple[Cell | None, list[Problem]]:
    """A sound cell with the wanted values, the others as near to the first ones as can be."""
    problems: list[Problem] = []
    for values in _around(space, first, wanted):
        made = space.made(values)
        if made is None:
            continue
        cell, found = made
        if not found:
            return cell, []
        problems = problems or found
    return None, problems


def _around(space: Space, first: Mapping[str, str], wanted: Mapping[str, str]) -> Iterable[dict[str, str]]:
    yield {**first, **wanted}
    others = [key for key in space.dimensions if key not in wanted]
    for key in others:
        for value in space.dimensions[key].ends:
            yield {**first, key: value, **wanted}
    draw = random.Random(0)
    for _ in range(TRIES):
        yield {**{key: draw.choice(space.dimensions[key].ends) for key in others}, **wanted}


def _nothing_left(space: Space) -> Problem:
    return Problem(
        "a space must hold a cell that is not left out",
        "space.never",
        "; ".join(space.config.space.never),
        "narrow the combinations that are left out",
    )
