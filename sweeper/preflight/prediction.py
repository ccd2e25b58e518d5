"""Asks a process for the predicted memory of cells, and for the cheapest change that would make one fit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.contract.config import Config
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.prediction import MemoryPrediction
from sweeper.launchers.base import Launcher

POLL_S = 0.05


@dataclass(frozen=True)
class Unpredictable:
    """Why there is no prediction: in the words of whatever refused."""

    reason: str


Answer = MemoryPrediction | Unpredictable


def predictions(configs: Sequence[Config], cache_dir: Path, launcher: Launcher) -> list[Answer]:
    """The prediction of each configuration, in order; equal ones are computed once.

    Raises RuntimeError when the process ends without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="sweeper-memory-") as name:
        folder = Path(name)
        asked = {"configs": [config.to_dict() for config in configs], "cache_dir": str(cache_dir.absolute())}
        write_json(folder / "memory.json", asked)
        job = launcher.submit("memory", folder, folder / "stdout.log", folder / "stderr.log")
        while not job.done():
            launcher.wait(POLL_S)
        if not (folder / "predicted.json").exists():
            log = folder / "stderr.log"
            raise RuntimeError(log.read_text(errors="replace")[-3000:] if log.exists() else "no answer")
        return [_answer(cell) for cell in read_json(folder / "predicted.json")["cells"]]


def _answer(cell: dict[str, object]) -> Answer:
    return Unpredictable(str(cell["error"])) if "error" in cell else MemoryPrediction.from_json(cell)
