"""A study from the command line: Hydra's flags, the run, and the verdict as it is printed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeper.cli.errors import explain
from sweeper.cli.signals import INTERRUPTED, raise_interrupts

if TYPE_CHECKING:
    from sweeper.sweep import Verdict


def run_command_line(arguments: list[str]) -> int:
    """Hand over to Hydra, which composes and comes back through `run_study`."""
    import hydra
    from hydra._internal.utils import get_args_parser

    from sweeper.config.hydra import conf_dir, initialized_hydra, register

    parsed = get_args_parser().parse_args(arguments)
    runs = not (parsed.cfg or parsed.info or parsed.hydra_help or parsed.shell_completion)
    if runs and _names_are_wrong(parsed.overrides, parsed.config_dir):
        with initialized_hydra():
            return _run_study(parsed.overrides, parsed.config_name or "config")
    register()
    sys.argv[1:] = arguments
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_task)()
    return 0


def _names_are_wrong(overrides: Sequence[str], config_dir: str | None) -> bool:
    """Whether Hydra would stop at the first key or choice it does not know, where we report all."""
    from pathlib import Path

    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from sweeper.config.validate import name_problems

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return True
    return bool(name_problems(parsed, [Path(config_dir)] if config_dir else []))


def _task(_: Any) -> None:
    """What Hydra runs without `-m`."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    run_study(list(hydra.overrides.task), str(hydra.job.config_name))


def run_study(arguments: Sequence[str], config_name: str) -> None:
    """Run a study inside an initialised Hydra, which would print our errors as its own. Raises SystemExit
    unless all went well."""
    try:
        code = _run_study(arguments, config_name)
    except Exception as error:
        told = explain(error)
        if told is None:
            raise
        code = told
    if code:
        raise SystemExit(code)


def _run_study(arguments: Sequence[str], config_name: str) -> int:
    from sweeper.cli import display
    from sweeper.sweep import sweep

    raise_interrupts()
    console = display.console()
    command = shlex.join(["python", "-m", "sweeper", *sys.argv[1:]])
    if console.is_terminal:
        console.print("Checking every cell, the model and the data …", style="dim")
    verdict = sweep(arguments, config_name, command, lambda: display.listener(console))
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
