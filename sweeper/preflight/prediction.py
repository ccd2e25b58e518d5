"""Asks a process for the predicted memory of cells, and for the cheapest change that would make one fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.contract.config import Config
from sweeper.contract.prediction import MemoryPrediction
from sweeper.launchers.ask import ask
from sweeper.launchers.base import Launcher


@dataclass(frozen=True)
class Unpredictable:
    """Why there is no prediction: in the words of whatever refused."""

    reason: str


Answer = MemoryPrediction | Unpredictable


def predictions(configs: Sequence[Config], cache_dir: Path, launcher: Launcher) -> list[Answer]:
    """The prediction of each configuration, in order; equal ones are computed once.

    Raises NoReplyError when the process ends without an answer.
    """
    asked = {"configs": [config.to_dict() for config in configs], "cache_dir": str(cache_dir.absolute())}
    return [_answer(cell) for cell in ask(launcher, "memory", asked)["cells"]]


def _answer(cell: dict[str, object]) -> Answer:
    return Unpredictable(str(cell["error"])) if "error" in cell else MemoryPrediction.from_json(cell)
