"""The verbs of the command line in one table: what each is for, what it takes, where it stands.

A new verb is a row here and a file `sweeper/cli/verbs/NAME.py` with `run(options, flags) -> exit code`.
Dispatch, the help, `VERB --help`, hints and refusals follow from the row.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sweeper.contract.trial import Problem

Kind = Literal["study", "configuration", "words"]
"""What the arguments of a verb are, besides its flags: options by which it finds and judges a study,
options of a trial or sweep, or plain words."""
TAKES = {
    "study": "Takes options of study, tracking, objective and constraint. Without study.name=… the\n"
    "study that changed last is meant; `python -m sweeper studies` lists all.",
    "configuration": "Takes the options and groups of a trial, and lists of values as in a sweep.",
    "words": "",
}


@dataclass(frozen=True)
class Flag:
    """A `--flag` of a verb."""

    name: str
    meaning: str
    default: str | None = None
    has_value: bool = False
    short: str | None = None


@dataclass(frozen=True)
class Verb:
    """One row of the table."""

    usage: str
    """Its arguments as the help writes them."""
    summary: str
    kind: Kind
    flags: tuple[Flag, ...] = ()
    about: str = ""
    """What `VERB --help` says besides."""


JSON = Flag("--json", "print JSON instead of text")
MULTIRUN = Flag("--multirun", "allowed, so that a sweep's command line can be pasted", short="-m")
VERBS = {
    "machine": Verb(
        "",
        "what trials see of this machine; which methods run",
        "words",
        (JSON,),
        "On a GPU it also measures two ceilings: a bf16 matrix product and a copy of memory.\n"
        "Exit code 1: there is a GPU that trials cannot use.",
    ),
    "memory": Verb(
        "[KEY=VALUE …]",
        "predicted peak memory, without weights or a GPU",
        "configuration",
        (JSON, MULTIRUN),
        "Exit code 1: a cell does not fit, or cannot be predicted.",
    ),
    "plan": Verb(
        "-m KEY=VALUE,VALUE …",
        "what a sweep will take: memory, time, price",
        "configuration",
        (MULTIRUN,),
        "Lists what the sweep would refuse and what it would skip. Nothing is run.",
    ),
    "paper": Verb(
        "[ROOT]",
        "the paper's figures, predicted and measured",
        "words",
        about="The paper: the article on optimising LLM training and fine-tuning in\n"
        '"Intellectual Technologies on Transport", 2024, No. 3.\n'
        "Trials of the studies below ROOT (default: studies) give the measured figures.",
    ),
    "options": Verb(
        "[SECTION …]",
        "every option with its meaning and default",
        "words",
        about="SECTION is a section (`lora`) or an option (`lora.r`).",
    ),
    "best": Verb(
        "[constraint.KEY=VALUE …]", "the best trial, why, and what each switch bought", "study", (JSON,)
    ),
    "report": Verb("", "the study as one HTML page and as Markdown", "study"),
    "production": Verb(
        "[KEY=VALUE …]",
        "run the best trial's configuration for real",
        "configuration",
        about="Options of study, objective and constraint choose the trial, all others change how it is run.",
    ),
    "studies": Verb("", "all studies with their state and best trial", "study", (JSON,)),
    "export": Verb(
        "--format=csv|parquet|json",
        "all trials as flat records",
        "study",
        (
            Flag("--format", "csv (default), parquet or json", "csv", has_value=True),
            Flag("--output", "file to write; - or unset: the standard output", has_value=True),
        ),
    ),
    "ui": Verb(
        "",
        "browse the study in MLflow, on this machine only",
        "study",
        (
            Flag("--port", "port of the pages (default 5000)", "5000", has_value=True),
            Flag("--host", "address to listen on (default 127.0.0.1)", "127.0.0.1", has_value=True),
            Flag("--allow-remote", "let --host be an address that others reach"),
        ),
    ),
    "sync": Verb("", "log to MLflow what it missed", "study"),
}


def run_verb(name: str, arguments: Sequence[str]) -> int:
    """Run a verb; its exit code. Raises ConfigurationError with every mistake in the arguments."""
    from sweeper.cli.signals import raise_interrupts
    from sweeper.config.cell import ConfigurationError

    verb = VERBS[name]
    if {"-h", "--help"} & set(arguments):
        print(_parser(name).format_help(), end="")
        return 0
    flags, options, problems = read_flags(name, arguments)
    if problems:
        problems += find_problems(verb.kind, options)
        raise ConfigurationError([(problem, "") for problem in problems])
    module = importlib.import_module(f"sweeper.cli.verbs.{name}")
    raise_interrupts()
    return int(module.run(options, flags))


def read_flags(name: str, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str], list[Problem]]:
    """The flags of a verb, the arguments that are none, and what is wrong with the flags."""
    flags = VERBS[name].flags
    parser, known = _parser(name), [item for flag in flags for item in (flag.name, flag.short) if item]
    try:
        found, others = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        said = error.argument_name or ""
        problem = Problem(f"a flag must be given as the help shows: {error.message}", said, said, _see(name))
        return argparse.Namespace(), [item for item in arguments if not item.startswith("-")], [problem]
    unknown = [item.partition("=")[0] for item in others if item.startswith("-")]
    problems = [_unknown_flag(name, item, known) for item in unknown]
    return found, [item for item in others if not item.startswith("-")], problems


def find_problems(kind: Kind, options: Sequence[str]) -> list[Problem]:
    """What is wrong with arguments of that kind, as far as it can be told without running the verb."""
    from sweeper.analysis.open import check_arguments
    from sweeper.config.cell import ConfigurationError
    from sweeper.space.dimensions import parsed

    if kind == "configuration":
        return [problem for problem, _ in parsed(options)[1]]
    if kind == "study":
        try:
            check_arguments(options)
        except ConfigurationError as error:
            return [problem for problem, _ in error.problems]
    return []


def find_near(word: str, words: Sequence[str]) -> list[str]:
    """Words that one may have meant: those that differ in a letter or two."""
    return difflib.get_close_matches(word, words, n=2, cutoff=0.7)


def _parser(name: str) -> argparse.ArgumentParser:
    verb = VERBS[name]
    parser = argparse.ArgumentParser(
        usage=f"python -m sweeper {name} {verb.usage}".rstrip(),
        description=verb.summary[0].upper() + verb.summary[1:] + ".",
        epilog="\n".join(text for text in (TAKES[verb.kind], verb.about) if text),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    for flag in verb.flags:
        names = [item for item in (flag.short, flag.name) if item]
        if flag.has_value:
            metavar = flag.name.lstrip("-").upper()
            parser.add_argument(*names, default=flag.default, help=flag.meaning, metavar=metavar)
        else:
            parser.add_argument(*names, action="store_true", help=flag.meaning)
    return parser


def _unknown_flag(name: str, said: str, known: Sequence[str]) -> Problem:
    near = find_near(said, known)
    remedy = f"did you mean {' or '.join(near)}?" if near else _see(name)
    return Problem(f"{name} must know the flag", said, said, remedy)


def _see(name: str) -> str:
    return f"see `python -m sweeper {name} --help`"


def check_first_word(arguments: Sequence[str]) -> None:
    """Raise ConfigurationError when the first word can only be meant as a verb, but is none."""
    from sweeper.config.cell import ConfigurationError

    first = arguments[0] if arguments else ""
    if not first.isalpha():
        return
    near = find_near(first, list(VERBS))
    remedy = f"did you mean {' or '.join(near)}?" if near else f"take one of {', '.join(VERBS)}, or KEY=VALUE"
    raise ConfigurationError([(Problem("the first word must be a verb", "the verb", first, remedy), "")])
