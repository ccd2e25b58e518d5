"""The doors of Hydra's users: its flags and `hydra.…` options, heeded or refused in our words."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.cli.commands import find_near
from sweeper.contract.trial import Problem

HEEDED = ("hydra.sweeper.n_trials", "hydra.sweeper.params", "hydra.searchpath", "hydra.mode")
"""Hydra's own options that say something about a study."""
INSTEAD = {
    "hydra/launcher": "leave it out: slots=N runs several trials at once",
    "hydra.launcher.n_jobs": "slots=N runs several trials at once",
    "hydra/sweeper": "leave it out: search.n_trials=N searches, and search.sampler=… names Optuna's sampler",
    "hydra.sweeper.sampler.seed": "write search.seed=…",
    "hydra.sweeper.sampler": "write search.sampler=…",
    "hydra.sweeper.direction": "write objective.maximize=… or objective.minimize=…",
    "hydra.sweeper.study_name": "write study.name=…",
    "hydra.sweeper.storage": "write study.storage=…",
    "hydra.sweeper.n_jobs": "write slots=…",
    "hydra.sweeper.search_space": "write the values as options, or space.sweep={…}",
    "hydra.run": "write study.root=… and study.name=…",
    "hydra.sweep": "write study.root=… and study.name=…",
}
"""What says the same here; of two that fit the first is told."""
SHOWN = ("launcher", "sweeper", "run", "sweep", "callbacks")
"""Parts of Hydra's configuration that a file of the user's could set; without effect here."""


@dataclass(frozen=True)
class CommandLine:
    """A command line of Hydra's kind, taken apart."""

    overrides: tuple[str, ...]
    config_name: str
    config_dir: str | None
    is_multirun: bool
    shows: bool
    """Whether Hydra is asked to show something instead of a study being run."""
    problems: tuple[Problem, ...]

    @property
    def flags(self) -> list[str]:
        """The flags that say where options lie."""
        name = [] if self.config_name == "config" else [f"--config-name={self.config_name}"]
        return [*([f"--config-dir={self.config_dir}"] if self.config_dir else []), *name]

    @property
    def folders(self) -> list[str]:
        """Where further options lie."""
        given = [self.config_dir] if self.config_dir and Path(self.config_dir).is_dir() else []
        return [*given, *(folder for item in self.overrides for folder in _searched(item))]


def _searched(override: str) -> list[str]:
    """The folders that `hydra.searchpath=[…]` names."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not override.startswith("hydra.searchpath="):
        return []
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        return []  # `parsed` tells
    return [str(item) for item in value] if isinstance(value, list) else []


def read_command_line(arguments: Sequence[str]) -> CommandLine:
    """Take flags and overrides apart, in whatever order they stand."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        found, unknown = parser.parse_known_intermixed_args(list(arguments))
    except argparse.ArgumentError as error:
        said = error.argument_name or ""
        problem = Problem(f"a flag must be complete: {error.message}", said, said, "see --hydra-help")
        overrides = tuple(item for item in arguments if not item.startswith("-"))
        return CommandLine(overrides, "config", None, False, False, (problem,))
    known = [name for action in parser._actions for name in action.option_strings]
    problems = [*(_unknown_flag(item, known) for item in unknown), *_flag_problems(found)]
    return CommandLine(
        overrides=tuple(found.overrides),
        config_name=(found.config_name or "config").removesuffix(".yaml"),
        config_dir=found.config_dir,
        is_multirun=found.multirun,
        shows=bool(found.cfg or found.info or found.hydra_help or found.shell_completion),
        problems=tuple(problems),
    )


def _unknown_flag(said: str, known: Sequence[str]) -> Problem:
    near = find_near(said.partition("=")[0], known)
    remedy = f"did you mean {' or '.join(near)}?" if near else "see --help and --hydra-help"
    return Problem("the flag must exist", said.partition("=")[0], said, remedy)


def _flag_problems(found: argparse.Namespace) -> Iterator[Problem]:
    if found.config_path is not None:
        remedy = "use --config-dir=…, which adds to them"
        yield Problem("sweeper's own options cannot be replaced", "--config-path", found.config_path, remedy)
    if found.experimental_rerun is not None:
        rule = "no pickle is read"
        yield Problem(rule, "--experimental-rerun", found.experimental_rerun, "type the command again")
    if found.config_dir is not None and not Path(found.config_dir).is_dir():
        rule = "--config-dir must be a folder of options"
        yield Problem(rule, "--config-dir", found.config_dir, "correct it, or leave it out")
    asked = [bool(found.cfg), found.info is not None, found.hydra_help, found.shell_completion]
    if sum(asked) + (found.run or found.multirun) > 1:
        flags = "--cfg, --info, --hydra-help, --shell-completion"
        yield Problem(
            "one thing can be shown, and nothing run beside it", "the number", "more", f"give one of {flags}"
        )
    if (found.resolve or found.package) and not found.cfg:
        yield Problem("--resolve and --package belong to --cfg", "--cfg", "missing", "add --cfg job")
    if found.shell_completion:
        yield from _completion_problems(found.overrides)


def _completion_problems(overrides: Sequence[str]) -> Iterator[Problem]:
    pairs = [item.partition("=")[::2] for item in overrides]
    verbs = [value for key, value in pairs if key in ("install", "uninstall", "query")]
    if len(verbs) != 1 or verbs[0] not in ("bash", "fish", "zsh"):
        rule = "--shell-completion must be told what to do"
        said = " ".join(overrides) or "missing"
        yield Problem(rule, "its argument", said, "write install=bash, or uninstall; fish and zsh work too")


def complete_overrides(line: CommandLine) -> tuple[list[str], list[Problem]]:
    """The overrides that are a study's, with what the user's files add to them, and what is refused of
    Hydra's. Needs an initialised Hydra."""
    from sweeper.space.dimensions import parsed

    overrides, mistakes = parsed(line.overrides)
    problems = [*line.problems, *_refused(overrides)]
    more: list[str] = []
    is_multirun = line.is_multirun
    if not problems and not mistakes and _may_hold_more(line):
        more, is_multirun, problems = _read_files(line, overrides)
    if not is_multirun:
        problems += [_one_value(item) for item in overrides if item.is_sweep_override()]
    own = [item for item in line.overrides if not item.lstrip("+~").startswith("hydra") or _is_passed(item)]
    return [*more, *own], problems


def _is_passed(override: str) -> bool:
    return override.startswith(("hydra.sweeper.n_trials=", "hydra.searchpath="))


def _may_hold_more(line: CommandLine) -> bool:
    """Whether anything but `conf/` can say what Hydra does, which takes a composition to know."""
    heeded = [item for item in line.overrides if item.lstrip("+").startswith("hydra.")]
    return bool(line.config_dir or heeded or line.config_name != "config")


def _refused(overrides: Sequence[Any]) -> Iterator[Problem]:
    for override in overrides:
        key = override.key_or_group
        if key.startswith(("hydra.", "hydra/")) and not key.startswith(HEEDED):
            yield _without_effect(key, override.get_value_string())


def _without_effect(key: str, value: str) -> Problem:
    near = next((remedy for name, remedy in INSTEAD.items() if key.startswith(name)), "leave it out")
    return Problem("trials are proposed and run by sweeper itself, not by Hydra's plugins", key, value, near)


def _one_value(override: Any) -> Problem:
    key, value = override.key_or_group, override.get_value_string()
    remedy = f"add -m, or write a list in brackets: {key}=[{value}]"
    return Problem("several values need -m", key, value, remedy)


def _read_files(line: CommandLine, overrides: Sequence[Any]) -> tuple[list[str], bool, list[Problem]]:
    """What Hydra's part of the configuration says: overrides, whether it is a sweep, what is refused."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    fixed = [item.input_line for item in overrides if not item.is_sweep_override()]
    try:
        found = compose(line.config_name, fixed, return_hydra_config=True).hydra
        usual = compose("config", return_hydra_config=True).hydra
    except (HydraException, OmegaConfBaseException):  # whoever composes the cells tells
        return [], line.is_multirun, []
    plain: Any = OmegaConf.to_container(found, resolve=False)
    expected: Any = OmegaConf.to_container(usual, resolve=False)
    problems = [
        _without_effect(f"hydra.{part}.{name}", str(value))
        for part in SHOWN
        for name, value in (plain[part] or {}).items()
        if value != (expected[part] or {}).get(name) and f"hydra.{part}.{name}" not in HEEDED
    ]
    sweeper, given = plain["sweeper"], {item.key_or_group for item in overrides}
    params = sweeper.get("params") or {}
    is_multirun = line.is_multirun or str(found.mode) == "RunMode.MULTIRUN"
    more = [f"{key}={value}" for key, value in params.items() if key not in given] if is_multirun else []
    trials = sweeper.get("n_trials")
    if trials is not None and not given & {"search.n_trials", "hydra.sweeper.n_trials"}:
        more.append(f"search.n_trials={trials}")
    return more, is_multirun, problems
