"""Overrides -> space: what may vary, and any combination of it composed, typed and checked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeper.config.cell import Cell
from sweeper.config.compose import Composer
from sweeper.config.rules import check
from sweeper.contract.config import Config
from sweeper.contract.stamps import digest
from sweeper.contract.trial import Problem
from sweeper.machine import Machine
from sweeper.space.conditions import Conditions
from sweeper.space.dimensions import Choices, Dimension

NOT_THE_QUESTION = (
    "study.", "tracking.", "hydra", "objective.", "constraint.", "hardware.", "trial.timeout_s", "budget.",
    "slots", "repeats.", "search.n_trials",
)  # fmt: skip
"""Overrides that do not change what a study asks, and so do not change its derived name."""
FOUND_BY_PAPER = ("batch.micro", "batch.effective")
"""Options that `strategy=paper` varies also where they are not swept."""
DEFAULT_TRIALS = 30
"""Cells that are proposed where a continuous range leaves no end of them."""
ENUMERATED = 5000
"""Largest discrete space whose combinations are all looked at before a search."""
TRIES = 200
"""Combinations that are tried before a value counts as impossible."""


@dataclass(frozen=True)
class Space:
    """What a command line asks for."""

    fixed: tuple[str, ...]
    """Overrides that hold for every cell, as typed."""
    dimensions: dict[str, Dimension]
    """Swept key -> what it may be."""
    conditions: Conditions
    cells: tuple[Cell, ...]
    """Grid: every cell. Elsewhere: cells that show every value, checked beforehand."""
    config: Config
    """The configuration without any swept value, resolved."""
    strategy: str
    """`grid`, `search`, `joint` or `paper`."""
    composer: Composer = field(repr=False, compare=False)
    machine: Machine = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The study's name when none is given: the same question gets the same name."""
        question = sorted(item for item in self.fixed if not item.startswith(NOT_THE_QUESTION))
        if self.composer.config_name != "config":
            question.append(f"--config-name={self.composer.config_name}")
        names = sorted(self.dimensions)
        words = "_".join(key.rpartition(".")[2] if len(names) > 2 else key for key in names) or "single"
        return f"{words[:60]}-{digest([question, self.swept], 6)}"

    @property
    def swept(self) -> dict[str, list[str]]:
        """Swept key -> its values, or its range, as typed."""
        return {key: dimension.texts() for key, dimension in self.dimensions.items()}

    @property
    def touched(self) -> tuple[str, ...]:
        """Options that are not swept by name, but set by the choices of a swept group."""
        choices = ((key, text) for key, dimension in self.dimensions.items() for text in dimension.texts())
        found = (self.composer.options_set(key, text) for key, text in choices)
        return tuple(sorted(frozenset().union(*found)))

    @property
    def base(self) -> dict[str, Any]:
        """The configuration without the swept overrides."""
        return self.config.to_dict()

    @property
    def size(self) -> float:
        """Combinations, those that are left out included; infinite with a continuous range."""
        return math.prod(
            len(d.values) if isinstance(d, Choices) else math.inf for d in self.dimensions.values()
        )

    def cell(self, values: Mapping[str, str]) -> Cell | None:
        """The cell of a combination, or None when it is left out or breaks a rule."""
        made = self.made(values)
        return None if made is None or made[1] else made[0]

    def made(self, values: Mapping[str, str]) -> tuple[Cell | None, list[Problem]] | None:
        """The cell and what is wrong with it; None when the combination is left out."""
        kept = self.conditions.active(values, self._elsewhere)
        if kept is None:
            return None
        config, problems = self.composer.cell(kept)
        if config is None:
            return None, problems
        known = {problem.key for problem in problems}  # what stands in its place breaks no rule of the user's
        return Cell(kept, config), [
            *problems,
            *(item for item in check(config, self.machine) if item.key not in known),
        ]

    def combinations(self) -> Iterator[dict[str, str]]:
        """Every combination of discrete values, the last key varying fastest."""
        values = [dimension.ends for dimension in self.dimensions.values()]
        for combination in itertools.product(*values):
            yield dict(zip(self.dimensions, combination, strict=True))

    @property
    def _elsewhere(self) -> Mapping[str, str]:
        return self.composer.choices if self.conditions.named() else {}
