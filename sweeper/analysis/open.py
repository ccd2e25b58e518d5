"""Open a study that was run before: which one is meant, under which rule, and what it holds.

The verbs that read take `study.`, `objective.`, `constraint.` and `tracking.` options. What is not said is
taken from the study's own record, so that `best constraint.peak_memory_gib=1` changes nothing else.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sweeper.analysis.choice import Choice, Judged, choose
from sweeper.config.cell import ConfigurationError
from sweeper.config.hydra import initialized_hydra, to_override
from sweeper.config.options import keys
from sweeper.contract.config import Config, from_dict
from sweeper.contract.json_files import UnreadableFileError
from sweeper.contract.trial import Problem
from sweeper.machine import machine
from sweeper.ranking.rule import Rule
from sweeper.space.expand import expand
from sweeper.study.folder import StudyFolder
from sweeper.study.masking import MASK
from sweeper.study.records import StudyRecord, TrialRecord
from sweeper.tracking.address import default_uri
from sweeper.tracking.tracker import Tracker

TAKEN = ("study.", "tracking.", "objective.", "constraint.")
"""Options that a reading verb takes."""
RECORDED = ("objective", "constraint", "tracking", "evaluate")
"""Sections of which the study's own record holds the defaults."""


BROKEN = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What reading the records of a study raises that are damaged, of another version, or out of reach."""


class NoStudyError(Exception):
    """There is no study to read; the message says how to make one."""


@dataclass(frozen=True)
class OpenStudy:
    """A study on disk, ready to be judged."""

    folder: StudyFolder
    record: StudyRecord
    config: Config
    """The study's options with those of the command line over them."""
    others: int = 0
    """Further studies below the same root, when this one was picked because it is the latest."""

    @property
    def rule(self) -> Rule:
        return Rule.of(self.config.objective, self.config.constraint)

    @cached_property
    def trials(self) -> list[TrialRecord]:
        """Every trial, without its lines of progress. Raises UnreadableFileError, also for records of another
        shape."""
        try:
            return self.folder.read_trials()
        except UnreadableFileError:
            raise
        except BROKEN as error:
            raise UnreadableFileError(self.folder.trials, error) from error

    @property
    def judged(self) -> Judged:
        """The ranking alone, of the same choice."""
        return Judged(self.choice.cells, self.choice.ranking)

    @cached_property
    def choice(self) -> Choice:
        return choose(self.record, self.trials, self.rule)

    @property
    def tracking_uri(self) -> str:
        return self.config.tracking.uri or default_uri(self.folder.path.parent)

    def without_password(self) -> str | None:
        """What to say where the store's address holds a password that the record does not; else None."""
        if MASK not in self.tracking_uri:
            return None
        name = self.record.name
        return f"{name}: its store's password is not recorded; give tracking.uri=… with study.name={name}"

    def tracker(self) -> Tracker:
        """Speaks to the MLflow store of the study."""
        experiment = self.config.tracking.experiment or self.record.name
        return Tracker(self.tracking_uri, experiment, self.folder, self.record)


def open_study(arguments: Sequence[str]) -> OpenStudy:
    """The study that the arguments mean: by `study.name`, or else the one that changed last.

    Raises ConfigurationError for a mistake in the arguments and NoStudyError where there is no study.
    """
    said = _config(arguments)
    folders = _find_folders(Path(said.study.root))
    folder = _named(folders, said.study.name) if said.study.name else max(folders, key=last_change_s)
    record = folder.read_study()
    assert record is not None
    given = {_key(item) for item in arguments}
    own = [to_override(key, value) for key, value in _recorded(record.config) if key not in given]
    config = _config(arguments, own)
    return OpenStudy(folder, record, config, 0 if said.study.name else len(folders) - 1)


def _find_folders(root: Path) -> list[StudyFolder]:
    """Every study below a root. Raises NoStudyError when there is none."""
    folders = study_folders(root)
    if not folders:
        raise NoStudyError(
            f"no study lies in {root}: run `python -m sweeper -m …` first, or give study.root=…"
        )
    return folders


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise ConfigurationError with every mistake in the arguments of a verb that reads."""
    _config(arguments)


def asked_root(arguments: Sequence[str]) -> Path:
    """The folder of studies that the arguments mean."""
    return Path(_config(arguments).study.root)


def asked_studies(arguments: Sequence[str], unreadable: Callable[[str, Exception], None]) -> list[OpenStudy]:
    """The study that the arguments name, or every study. Raises as `open_study`, but when every study is
    asked for, a broken one goes to `unreadable` by its name."""
    said = _config(arguments)
    if said.study.name:
        return [open_study(arguments)]
    names = [folder.path.name for folder in _find_folders(Path(said.study.root))]
    return list(_each(arguments, names, unreadable))


def _each(
    arguments: Sequence[str], names: Sequence[str], unreadable: Callable[[str, Exception], None]
) -> Iterator[OpenStudy]:
    for name in names:
        try:
            yield open_study([*arguments, to_override("study.name", name)])
        except BROKEN as error:
            unreadable(name, error)


def opened(folder: StudyFolder) -> OpenStudy:
    """A study under its own rule. Raises UnreadableFileError when its record is broken, and ValueError or
    TypeError when it is of another version."""
    record = folder.read_study()
    assert record is not None
    own: dict[str, dict[str, Any]] = {section: {} for section in RECORDED}
    for key, value in _recorded(record.config):
        section, _, name = key.partition(".")
        own[section][name] = value
    return OpenStudy(folder, record, from_dict(own))


def study_folders(root: Path) -> list[StudyFolder]:
    """Every study below a root, by name. One that may not be looked into counts: opening it tells."""
    if not root.is_dir():
        return []
    found = (StudyFolder(path) for path in sorted(root.iterdir()))
    return [folder for folder in found if os.path.isdir(folder.path) and _may_be_study(folder)]


def _may_be_study(folder: StudyFolder) -> bool:
    return os.path.exists(folder.study) or not os.access(folder.path, os.R_OK | os.X_OK)


def describe_damage(error: Exception) -> str:
    """What to say of a study that cannot be read; one line."""
    if isinstance(error, UnreadableFileError | OSError):
        return " ".join(str(error).split())
    return f"a record is of another version or damaged ({type(error).__name__}: {error})"


def last_change_s(folder: StudyFolder) -> float:
    """When the study last did something, in seconds since 1970."""
    paths = (folder.study, folder.trials, folder.ranking_json)
    return max((os.stat(path).st_mtime for path in paths if os.path.exists(path)), default=0.0)


def _named(folders: Sequence[StudyFolder], name: str) -> StudyFolder:
    for folder in folders:
        if folder.path.name == name:
            return folder
    names = [folder.path.name for folder in folders]
    near = difflib.get_close_matches(name, names, n=3) or names[:5]
    problem = Problem("study.name must name a study", "study.name", name, f"take one of {', '.join(near)}")
    raise ConfigurationError([(problem, "")])


def _config(arguments: Sequence[str], own: Sequence[str] = ()) -> Config:
    """The arguments as a checked configuration, over the study's own options."""
    with initialized_hydra():
        refused = [(_not_taken(item), "") for item in arguments if not _key(item).startswith(TAKEN)]
        try:
            taken = [item for item in arguments if _key(item).startswith(TAKEN)]
            space = expand([*own, *taken], "config", machine(), reads=True)
        except ConfigurationError as error:
            raise ConfigurationError([*refused, *error.problems]) from None
    config = space.cells[0].config
    refused += [(problem, "") for problem in _root_problems(Path(config.study.root), taken)]
    if refused:
        raise ConfigurationError(refused)
    return config


def _root_problems(root: Path, arguments: Sequence[str]) -> Iterator[Problem]:
    """A folder that was named is there; the default one need not be."""
    if any(_key(item) == "study.root" for item in arguments) and not root.is_dir():
        rule = "study.root must be a folder that holds studies"
        yield Problem(rule, "study.root", str(root), "correct it, or leave it out for studies")


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def _not_taken(argument: str) -> Problem:
    rule = f"an argument must be an option of {', '.join(item.rstrip('.') for item in TAKEN)}"
    return Problem(rule, _key(argument), argument, "this verb reads a study and runs nothing")


def _recorded(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The study's own options. One that this version does not know, because another wrote the study, is
    left out: the measurements can be read all the same."""
    known = set(keys())
    for section in RECORDED:
        for name, value in config.get(section, {}).items():
            if f"{section}.{name}" in known:
                yield f"{section}.{name}", value
