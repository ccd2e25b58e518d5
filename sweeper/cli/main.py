"""The command line: verbs, exit codes, and the only place that prints."""

from __future__ import annotations

import importlib
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeper.sweep import Verdict

USAGE = """\
sweeper finds the combination of training optimisations that fine-tunes your LLM fastest,
in the memory you have, without hurting quality.

  python -m sweeper -m KEY=VALUE,VALUE … [KEY=VALUE …]   sweep: one trial per combination
  python -m sweeper [KEY=VALUE …]                        one trial
  python -m sweeper memory [KEY=VALUE …]                 predicted peak memory, without weights or a GPU
  python -m sweeper plan -m KEY=VALUE,VALUE …            what a sweep will take: memory, time, price
  python -m sweeper paper [ROOT]                         the paper's figures, predicted and measured
  python -m sweeper options [SECTION]                    every option with its meaning and default
  python -m sweeper best [constraint.KEY=VALUE …]        the best trial, why, and what each switch bought
  python -m sweeper report                               the study as one HTML page and as Markdown
  python -m sweeper production [KEY=VALUE …]             run the best trial's configuration for real
  python -m sweeper studies                              all studies with their state and best trial
  python -m sweeper export --format=csv|parquet|json     all trials as flat records
  python -m sweeper ui                                   browse the study in MLflow, on this machine only
  python -m sweeper sync                                 log to MLflow what it missed

Examples
  python -m sweeper -m lora.r=8,16 optim=adamw,adafactor,bnb8
  python -m sweeper -m quantization=none,int8,nf4 checkpointing=off,on trial.memory_limit_gib=2
  python -m sweeper -m batch.micro=1,2,4,8 batch.effective=16 precision=fp32,bf16
  python -m sweeper -m model=hf model.path=./my-llama data=jsonl data.path=train.jsonl \\
      data.prompt_field=question data.completion_field=answer lora.r=8,16

Groups (take one with GROUP=OPTION, sweep with GROUP=OPTION,OPTION)
"""
HYDRA = """
Hydra's own flags work too: --cfg job shows the composed configuration, --config-dir adds a folder
of your own options, --hydra-help lists the rest.
Exit codes: 0 done, 1 no trial satisfies the rule or the study could not run, 2 a mistake in the
configuration (nothing was run), 130 interrupted (the same command continues).
"""
HIDDEN_OPTIM = "and every optimizer name of transformers"
VERBS = tuple("best export memory options paper plan production report studies sync ui".split())
"""The first word of a command line that is no study: `sweeper/verbs/` holds a file for each."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        return _help()
    if arguments and arguments[0] in VERBS:
        verb = importlib.import_module(f"sweeper.cli.verbs.{arguments[0]}")
        return int(verb.run(arguments[1:]))
    return _hydra(arguments)


def _help() -> int:
    from sweeper.config.hydra import OPTIMIZERS, groups

    print(USAGE, end="")
    for name, options in groups().items():
        shown = [option for option in options if name != "optim" or option not in OPTIMIZERS]
        more = f", {HIDDEN_OPTIM}" if name == "optim" else ""
        print(f"  {name:<14} {', '.join(shown)}{more}")
    print(HYDRA, end="")
    return 0


def _hydra(arguments: list[str]) -> int:
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
    """Run a study inside an initialised Hydra. Raises SystemExit unless all went well."""
    code = _run_study(arguments, config_name)
    if code:
        raise SystemExit(code)


def _run_study(arguments: Sequence[str], config_name: str) -> int:
    from sweeper.cli import display
    from sweeper.config.cell import ConfigurationError
    from sweeper.contract.json_files import UnreadableFileError
    from sweeper.launchers.ask import NoReplyError
    from sweeper.scheduler.ledger import StorageError
    from sweeper.scheduler.slots import BusyDeviceError
    from sweeper.study.folder import StudyIsBusyError
    from sweeper.sweep import sweep

    signal.signal(signal.SIGTERM, _interrupt)
    console = display.console()
    command = shlex.join(["python", "-m", "sweeper", *sys.argv[1:]])
    if console.is_terminal:
        console.print("Checking every cell, the model and the data …", style="dim")
    try:
        verdict = sweep(arguments, config_name, command, lambda: display.listener(console))
    except ConfigurationError as error:
        lines = display.problem_lines(error.problems)
        count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
        print(f"{count} in the configuration; nothing was run:", *lines, sep="\n", file=sys.stderr)
        return 2
    except (StudyIsBusyError, StorageError, BusyDeviceError, NoReplyError, UnreadableFileError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return _report(console, verdict)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _report(console: Any, verdict: Verdict) -> int:
    from sweeper.cli.display import ranking_table

    ranking, best = verdict.ranking, verdict.ranking.best
    if verdict.reused:
        found = f"Found {verdict.reused} trials measured before; ran {verdict.ran}."
        console.print(found, highlight=False)
    if ranking.trials:
        console.print(ranking_table(ranking))
    console.print(f"Rule: {ranking.rule.sentence()}.", highlight=False)
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
        return 130
    return 0 if best is not None else 1


def _command(console: Any, name: str, text: str) -> None:
    console.print(f"{name + ':':<14}{text}", highlight=False, markup=False, soft_wrap=True)
