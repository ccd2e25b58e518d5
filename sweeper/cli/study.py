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
    from sweeper.cli.display import ranking_table

    ranking, best = verdict.ranking, verdict.ranking.best
    if verdict.reused:
        found = f"Found {verdict.reused} trials measured before; ran {verdict.ran}."
        console.print(found, highlight=False)
    if ranking.trials:
        console.print(ranking_table(ranking))
    console.print(f"Rule: {ranking.rule.sentence()}.", highlight=False)
    if left_out := ranking.left_out_sentence():
        console.print(f"{left_out}.", highlight=False, markup=False, soft_wrap=True)
    if best is not None:
        console.print(f"Best: trial {best.number}, [bold]{best.label}[/bold]", highlight=False)
        _command(console, "Run it again", verdict.reproduce or "")
    else:
        console.print("Best: none, no trial satisfies the rule.", highlight=False)
    if verdict.ui_command is not None:
        _command(console, "MLflow", verdict.ui_command)
    if verdict.url is not None:
        _command(console, "Its page", verdict.url)
    _command(console, "Folder", str(verdict.folder.path))
    if verdict.left:
        console.print(f"Ended: {verdict.left}.", highlight=False, soft_wrap=True)
    if verdict.interrupted:
        console.print("Interrupted. The same command continues.")
        return INTERRUPTED
    return 0 if best is not None else 1


def _command(console: Any, name: str, text: str) -> None:
    console.print(f"{name + ':':<14}{text}", highlight=False, markup=False, soft_wrap=True)
