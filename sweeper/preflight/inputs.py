"""What makes two trials the same work, and whether a cell's model and data are sound.

A look at models and data is a process of its own (the launcher's verb `prepare`). Cells that agree in
what it looks at share one look, also when they come later in a search.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sweeper.config.cell import Cell, ConfigurationError
from sweeper.contract.config import AUTOCAST, BatchConfig, Config, from_dict
from sweeper.contract.scopes import ABOUT_THE_STUDY
from sweeper.contract.stamps import digest, now
from sweeper.contract.trial import Outcome, Problem, TrialResult
from sweeper.launchers.ask import ask
from sweeper.launchers.base import Launcher
from sweeper.machine import Machine, versions
from sweeper.preflight.remembered import Remembered

LOOKED_AT = "model data evaluate adapter quantization attention precision optim trainer".split()
"""Sections and options of the configuration that `trainers.prepare` reads in full."""
LOOKED_AT_IN = {
    "lora": ("target_modules", "use_dora"),
    "train": ("optim_args", "lr_scheduler_type"),
    "trial": ("device",),
}
"""Options that it reads of other sections."""


class Identities:
    """The keys of cells, and the looks that they rest on."""

    def __init__(self, launcher: Launcher, cache_dir: Path, machine: Machine) -> None:
        self._launcher = launcher
        self._cache_dir = cache_dir
        self._machine = machine
        self._remembered = Remembered(cache_dir, "looks", machine)
        self._looks: dict[str, dict[str, Any]] = {}
        self.identities: list[dict[str, Any]] = []
        """What the cells rest on beside their options, each once."""
        self.on_new: Callable[[], None] = lambda: None
        """Called when `identities` has one more."""

    def look(self, cells: Sequence[Cell]) -> None:
        """Look at models and data of the cells; tokenised data lies in the cache afterwards.

        Raises ConfigurationError with all problems, and NoReplyError when the look itself fails.
        """
        aspects = [_aspect(cell.config) for cell in cells]
        self._take({aspect: cell.config for aspect, cell in zip(aspects, cells, strict=True)})
        problems = [
            (problem, cell.label)
            for aspect, cell in zip(aspects, cells, strict=True)
            for problem in self._problems(aspect)
        ]
        if problems:
            raise ConfigurationError(problems)

    def knows(self, cells: Sequence[Cell]) -> bool:
        """Whether all that is to know of the cells was found by an earlier look."""
        return all(self._known(_aspect(cell.config), cell.config) for cell in cells)

    def _known(self, aspect: str, config: Config) -> bool:
        """Whether the aspect was looked at, by this run or an earlier one."""
        if aspect not in self._looks:
            found = self._remembered.get(self._remembered.key(config, aspect))
            if found is not None:
                self._looks[aspect] = found
        return aspect in self._looks

    def _take(self, asked: Mapping[str, Config]) -> None:
        """Look at what nobody has looked at; what is found sound is remembered."""
        new = {aspect: config for aspect, config in asked.items() if not self._known(aspect, config)}
        if not new:
            return
        keys = [self._remembered.key(config, aspect) for aspect, config in new.items()]
        found = self._prepare([_with_any_batch(config).to_dict() for config in new.values()])
        self._looks |= dict(zip(new, found, strict=True))
        answers = zip(keys, found, strict=True)
        self._remembered.put({key: answer for key, answer in answers if not answer["problems"]})

    def verdict(self, config: Config) -> TrialResult | None:
        """How a trial would end whose model or data are unsound; None for one that can start."""
        problems = self._problems(self._looked_at(Cell({}, config)))
        if not problems:
            return None
        said = (f"{item.rule}, but {item.key} is {item.value}: {item.remedy}" for item in problems)
        return TrialResult(Outcome.INVALID, "; ".join(said), ended_at=now())

    def _problems(self, aspect: str) -> list[Problem]:
        return [Problem(**problem) for problem in self._looks[aspect]["problems"]]

    def _looked_at(self, cell: Cell) -> str:
        """The cell's aspect, after a look. What is wrong with a cell that a search has drawn is no mistake
        of the user's: it is said by `verdict`."""
        with suppress(ConfigurationError):
            self.look([cell])
        return _aspect(cell.config)

    def key(self, cell: Cell, repeat: int = 0) -> str:
        """Identity of the cell's work; looks at its model and data if nobody has.

        Raises ConfigurationError with all problems, and NoReplyError when the look itself fails.
        """
        self.look([cell])
        return self.key_of_any(cell, repeat)

    def key_of_any(self, cell: Cell, repeat: int = 0) -> str:
        """The same for a cell whose model or data may be unsound. Raises NoReplyError alone."""
        key = trial_key(cell.config.to_dict(), self.identity(cell))
        return digest([key, repeat]) if repeat else key

    def identity(self, cell: Cell) -> dict[str, Any]:
        """What the cell rests on beside its options. Raises as `key_of_any`."""
        found = self._looks[self._looked_at(cell)]
        on_cpu = cell.config.trial.device == "cpu" or not self._machine.cuda_devices
        identity = {
            "model": found.get("model_fingerprint"),
            "data": found.get("data_fingerprint"),
            "device": f"cpu {self._machine.cpu}" if on_cpu else self._machine.device,
            "threads": _threads(cell.config) if on_cpu else None,
            "versions": versions(),
        }
        if identity not in self.identities:
            self.identities.append(identity)
            self.on_new()
        return identity

    def note(self, cells: Sequence[Cell]) -> None:
        """Look up the identities of all cells: those with the same model, data and device share one."""
        distinct = {repr((cell.config.model, cell.config.data, cell.config.trial)): cell for cell in cells}
        for cell in distinct.values():
            self.identity(cell)

    def _prepare(self, configs: list[dict[str, Any]]) -> list[Any]:
        asked = {"configs": configs, "cache_dir": str(self._cache_dir.absolute())}
        found: list[Any] = ask(self._launcher, "prepare", asked)["cells"]
        return found


def _aspect(config: Config) -> str:
    values: dict[str, Any] = {name: _plain(getattr(config, name)) for name in LOOKED_AT}
    for section, names in LOOKED_AT_IN.items():
        values |= {f"{section}.{name}": getattr(getattr(config, section), name) for name in names}
    return digest(values)


def _with_any_batch(config: Config) -> Config:
    """The batch is no part of a look, and may be wrong or undecided."""
    return dataclasses.replace(config, batch=BatchConfig(1, 1, 1))


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _threads(config: Config) -> str:
    """CPU threads of a trial."""
    return str(config.trial.threads or os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def trial_key(config: dict[str, Any], identity: Mapping[str, Any]) -> str:
    """Key of a trial's work: 16 hex digits of SHA-256 over all that can change its result."""
    work = {name: value for name, value in config.items() if name not in ABOUT_THE_STUDY}
    if work["attention"] == "auto":  # the same work for a class that has sdpa; no other could ask for that
        work["attention"] = "sdpa"
    held = from_dict(config).held_dtype
    if work["precision"] in AUTOCAST and held != "float32":  # the work that `model.dtype=auto` stands for
        work["model"] = {**work["model"], "dtype": held}
    return digest({"config": work, **identity})
