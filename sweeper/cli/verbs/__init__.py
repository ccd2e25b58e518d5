"""What `python -m sweeper VERB` can do besides running a study: one file per verb, each with `run`."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence

Verb = Callable[[Sequence[str]], int]


def reading_verb(verb: Verb) -> Verb:
    """A verb that reads a study: its mistakes are said on the standard error, with their exit code."""

    @functools.wraps(verb)
    def guarded(arguments: Sequence[str]) -> int:
        from sweeper.analysis.open import NoStudyError
        from sweeper.cli.display import problem_lines
        from sweeper.config.cell import ConfigurationError
        from sweeper.contract.json_files import UnreadableFileError
        from sweeper.launchers.ask import NoReplyError
        from sweeper.study.folder import StudyIsBusyError

        try:
            return verb(arguments)
        except ConfigurationError as error:
            lines = problem_lines(error.problems)
            count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
            print(f"{count} in the arguments; nothing was done:", *lines, sep="\n", file=sys.stderr)
            return 2
        except (NoStudyError, StudyIsBusyError, NoReplyError, UnreadableFileError) as error:
            print(error, file=sys.stderr)
            return 1

    return guarded


def flags(
    arguments: Sequence[str], *switches: str, **values: str | None
) -> tuple[argparse.Namespace, list[str]]:
    """The `--flags` of a verb, and the arguments that are none. `values` hold the defaults."""
    parser = argparse.ArgumentParser(prog="python -m sweeper", add_help=False, allow_abbrev=False)
    for name in switches:
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    for name, default in values.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=default)
    return parser.parse_known_args(list(arguments))
