"""A cell: one configuration of a study, and the mistakes that keep it from being one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.contract.config import Config
from sweeper.contract.trial import Problem


@dataclass(frozen=True)
class Cell:
    """One combination of the space."""

    overrides: dict[str, str]
    """Swept key -> value, as typed."""
    config: Config

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.overrides.items()) or "single"


class ConfigurationError(Exception):
    """The configuration has mistakes; `problems` holds all of them with the cells they stand in.

    `cells` are those that could be composed, with defaults in place of what is wrong, for further checks.
    """

    def __init__(self, problems: Sequence[tuple[Problem, str]], cells: Sequence[Cell] = ()) -> None:
        self.problems = list(problems)
        self.cells = tuple(cells)
        super().__init__("; ".join(f"{item.key}={item.value}: {item.rule}" for item, _ in self.problems))
