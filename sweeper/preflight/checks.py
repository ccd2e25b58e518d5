"""All mistakes of a command line at once: in what was typed, the machine, models and data, and the stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sweeper.config.cell import Cell, ConfigurationError
from sweeper.config.rules import check
from sweeper.contract.config import Config
from sweeper.contract.trial import Problem
from sweeper.launchers.base import Launcher
from sweeper.machine import machine
from sweeper.preflight.inputs import Identities
from sweeper.preflight.slots import Slot, make_slots
from sweeper.space.expand import expand
from sweeper.space.space import Space
from sweeper.study.folder import CACHE, find_root_problem
from sweeper.study.masking import mask
from sweeper.tracking.address import check as check_tracking
from sweeper.tracking.address import default_uri


def check_command(
    arguments: Sequence[str], config_name: str, launcher: Launcher, refused: Sequence[Problem] = ()
) -> tuple[Space, list[Slot]]:
    """The space and the slots; `refused`: mistakes that were found before. Raises ConfigurationError with
    everything that is wrong."""
    known = [(item, "") for item in refused]
    try:
        space = expand(arguments, config_name, machine())
    except ConfigurationError as error:
        raise _completed(ConfigurationError([*known, *error.problems], error.cells), launcher) from None
    slots, too_many = make_slots(space.config, machine())
    found = (_store_problem(space.config), too_many)
    problems = [*known, *((item, "") for item in found if item is not None)]
    if problems:
        raise _completed(ConfigurationError(problems, space.cells), launcher)
    return space, slots


def _completed(error: ConfigurationError, launcher: Launcher) -> ConfigurationError:
    """The same error with what a look at models, data and tracking adds to it."""
    known = {(problem.key, problem.value) for problem, _ in error.problems}
    problems = list(error.problems)
    if error.cells and (store := _store_problem(error.cells[0].config)):
        problems.append((store, ""))
    sound = [cell for cell in error.cells if _has_sound_inputs(cell)]
    if sound and not find_root_problem(sound[0].config.study.root):
        try:
            Identities(launcher, Path(sound[0].config.study.root) / CACHE, machine()).look(sound)
        except ConfigurationError as more:
            problems += [item for item in more.problems if (item[0].key, item[0].value) not in known]
    return ConfigurationError(list(dict.fromkeys(problems)))


def _has_sound_inputs(cell: Cell) -> bool:
    broken = {problem.key.partition(".")[0] for problem in check(cell.config, machine())}
    return not broken & {"model", "data"}


def _store_problem(config: Config) -> Problem | None:
    """Why the study's folder or its store in MLflow cannot be written."""
    uri = tracking_uri(config)
    if problem := find_root_problem(config.study.root):
        return problem
    refusal = check_tracking(uri)
    return None if refusal is None else Problem(refusal, "tracking.uri", mask(uri), "")


def tracking_uri(config: Config) -> str:
    """The address of MLflow's store."""
    return config.tracking.uri or default_uri(Path(config.study.root))
