"""The command line: which verb, or else a study; signals, closed pipes and exit codes of all of them.

Imports next to nothing, so that a signal finds its handler installed from the first moment on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from sweeper.cli.signals import INTERRUPTED, LINE, close_output, handled_signals, leave_on_signals

OUTPUT_CLOSED = 141
"""Exit code: 128 and the number of SIGPIPE, as shells have it for `best | head -1`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code."""
    with handled_signals():
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                with suppress(OSError):  # a pseudo-terminal may refuse the seek that it makes
                    stream.reconfigure(errors="replace")  # a locale that lacks a letter stops no command
        return _guarded(list(sys.argv[1:] if argv is None else argv))


def _guarded(arguments: list[str]) -> int:
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(LINE, file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        close_output()
        code = OUTPUT_CLOSED
    except Exception as error:
        from sweeper.cli.errors import explain

        told = explain(error)
        if told is None:
            raise
        code = told
    finally:
        leave_on_signals()
    return code


def _run(arguments: list[str]) -> int:
    from sweeper.cli.commands import VERBS, check_first_word, run_verb

    if arguments and arguments[0] in VERBS:
        return run_verb(arguments[0], arguments[1:])
    if {"-h", "--help"} & set(arguments):
        from sweeper.cli.overview import print_overview

        print_overview()
        return 0
    check_first_word(arguments)
    from sweeper.cli.study import run_command_line

    return run_command_line(arguments)
