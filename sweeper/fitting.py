"""From the overrides of a command line to predictions of memory, and to what would fit."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sweeper.bill import Bill, bill
from sweeper.config import initialized_hydra
from sweeper.contract import GIB
from sweeper.contract_memory import MemoryPrediction
from sweeper.launchers.local import LocalLauncher
from sweeper.memory_screen import MemoryScreen
from sweeper.paper_claims import configurations
from sweeper.prediction import Answer, changes, predictions
from sweeper.provenance import Machine, device_memory_bytes, machine
from sweeper.schema import Config
from sweeper.space import Cell, ConfigurationError, expand
from sweeper.time_model import TimeModels

CACHE = ".cache"
"""Folder below `study.root` for tokenised data, as in `sweeper.sweep`."""


def ask(overrides: Sequence[str]) -> tuple[tuple[Cell, ...], list[Answer], list[str]]:
    """The cells, their predictions, and lines about single changes that make a lone cell fit its limit.

    Raises ConfigurationError with every mistake.
    """
    with _warm_launcher() as launcher:
        with initialized_hydra():
            cells = expand(overrides, "config", supposed_machine(overrides)).cells
        cache_dir = Path(cells[0].config.study.root) / CACHE
        answers = predictions([cell.config for cell in cells], cache_dir, launcher)
        lines = _fitting(cells[0].config, answers[0], cache_dir, launcher) if len(cells) == 1 else []
        return cells, answers, lines


def plan(overrides: Sequence[str]) -> Bill:
    """The bill of what a command line asks for, mistakes included."""
    with _warm_launcher() as launcher, initialized_hydra():
        try:
            cells, problems = expand(overrides, "config", supposed_machine(overrides)).cells, []
        except ConfigurationError as error:
            wrong = {label for _, label in error.problems}
            cells = tuple(cell for cell in error.cells if cell.label not in wrong and "" not in wrong)
            problems = error.problems
        cache_dir = Path(cells[0].config.study.root if cells else ".") / CACHE
        screen = MemoryScreen(launcher, cache_dir, device_memory_bytes())
        configs = [cell.config for cell in cells]
        answers = screen.look(configs)
        limits = [screen.limit_bytes(config) for config in configs]
        return bill(cells, answers, limits, TimeModels(cache_dir), machine().device, problems)


def check_paper(root: Path) -> dict[str, MemoryPrediction]:
    """The prediction of each configuration that the paper's claims are about. Raises RuntimeError when one
    cannot be made."""
    configs = configurations()
    with _warm_launcher() as launcher:
        answers = predictions(list(configs.values()), root / CACHE, launcher)
    found = {}
    for name, answer in zip(configs, answers, strict=True):
        if not isinstance(answer, MemoryPrediction):
            raise RuntimeError(f"{name}: {answer.reason}")
        found[name] = answer
    return found


@contextmanager
def _warm_launcher() -> Iterator[LocalLauncher]:
    with tempfile.NamedTemporaryFile(prefix="sweeper-launcher-", suffix=".log") as log:
        launcher = LocalLauncher(Path(log.name))
        launcher.start()  # it imports while Hydra composes
        try:
            yield launcher
        finally:
            launcher.close()


def supposed_machine(overrides: Sequence[str]) -> Machine:
    """This machine, or one with CUDA where that is asked about: a prediction needs no device."""
    here = machine()
    if here.cuda_devices or "trial.device=cuda" not in overrides:
        return here
    return dataclasses.replace(here, cuda_devices=("a CUDA device",), flash_attn=True)


def _fitting(config: Config, answer: Answer, cache_dir: Path, launcher: LocalLauncher) -> list[str]:
    """What would make it fit: the cheapest single changes, each with its predicted peak."""
    limit_gib = config.trial.memory_limit_gib
    if limit_gib is None or not isinstance(answer, MemoryPrediction):
        return []
    if answer.needed_bytes <= limit_gib * GIB:
        return []
    tried = changes(config)
    found = predictions([change.config for change in tried], cache_dir, launcher)
    fitting = [
        f"  {change.override:<26}{prediction.peak_bytes / GIB:8.2f} GiB   costs: {change.cost}"
        for change, prediction in zip(tried, found, strict=True)
        if isinstance(prediction, MemoryPrediction) and prediction.needed_bytes <= limit_gib * GIB
    ]
    if not fitting:
        return ["No single change makes it fit; combine quantization=nf4, checkpointing=on, batch.micro=1."]
    return ["Cheapest single changes that make it fit:", *fitting]
