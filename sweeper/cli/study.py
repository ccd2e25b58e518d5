"""A study from the command line: Hydra's flags, the run, and the verdict as it is printed."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeper.cli.errors import MISTAKE
from sweeper.cli.signals import INTERRUPTED, raise_interrupts

if TYPE_CHECKING:
    from sweeper.cli.hydra_doors import CommandLine
    from sweeper.contract.trial import Problem
    from sweeper.sweep import Verdict


def run_command_line(arguments: list[str]) -> int:
    """Run the study that is asked for, or let Hydra show what it is asked to show. Raises
    ConfigurationError."""
    from sweeper.cli.hydra_doors import complete_overrides, read_command_line
    from sweeper.config.cell import ConfigurationError
    from sweeper.config.hydra import initialized_hydra

    line = read_command_line(arguments)
    with initialized_hydra(line.folders):
        if not line.shows:
            return _run_study(line, *complete_overrides(line))
    if line.problems:
        raise ConfigurationError([(problem, "") for problem in line.problems])
    return _show(arguments, line)


def _show(arguments: Sequence[str], line: CommandLine) -> int:
    """Hydra's own flags: `--cfg`, `--info`, `--hydra-help`, `--shell-completion`."""
    import hydra

    from sweeper.config.hydra import conf_dir, register

    register()
    flags = [item for item in arguments if item not in line.overrides]
    sys.argv[1:] = [*flags, *line.overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_nothing)()
    except SystemExit as stopped:  # Hydra has said why
        return MISTAKE if stopped.code else 0
    return 0


def _nothing(_: Any) -> None:
    """Stands for the program of which Hydra shows the configuration."""


def _run_study(line: CommandLine, overrides: Sequence[str], refused: Sequence[Problem]) -> int:
    from sweeper.cli import display
    from sweeper.sweep import sweep

    raise_interrupts()
    console = display.console()
    command = shlex.join(["python", "-m", "sweeper", *sys.argv[1:]])
    if console.is_terminal:
        console.print("Checking every cell, the model and the data …", style="dim")
    listening = functools.partial(display.listener, console)
    verdict = sweep(overrides, line.config_name, command, listening, flags=line.flags, refused=refused)
    return _report(console, verdict)


def _report(console: Any, verdict: Verdict) -> int:
    from rich.text import Text

    from sweeper.cli.tables import print_ranking

    ranking, best = verdict.ranking, verdict.ranking.best
    if verdict.reused:
        _say(console, f"Found {verdict.reused} trials measured before; ran {verdict.ran}.")
    if ranking.trials:
        print_ranking(console, ranking)
    _say(console, f"Rule: {ranking.rule.sentence()}.")
    if left_out := ranking.left_out_sentence():
        _say(console, f"{left_out}.")
    if best is not None:
        console.print(Text.assemble(f"Best: trial {best.number}, ", (best.label, "bold")), soft_wrap=True)
        _command(console, "Run it again", verdict.reproduce or "")
    else:
        console.print("Best: none, no trial satisfies the rule.", highlight=False)
    if verdict.ui_command is not None:
        _command(console, "MLflow", verdict.ui_command)
    if verdict.url is not None:
        _command(console, "Its page", verdict.url)
    _command(console, "Folder", str(verdict.folder.path))
    if verdict.left:
        _say(console, f"Ended: {verdict.left}.")
    if verdict.interrupted:
        console.print("Interrupted. The same command continues.")
        return INTERRUPTED
    return 0 if best is not None else 1


def _command(console: Any, name: str, text: str) -> None:
    _say(console, f"{name + ':':<14}{text}")


def _say(console: Any, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
