"""What is said when a command cannot be carried out, and the exit code: one place for every verb."""

from __future__ import annotations

import sys

MISTAKE = 2
"""Exit code: a mistake in the arguments or the configuration; nothing was run."""
FAILED = 1
"""Exit code: the arguments are sound, but what they ask for could not be had."""


def explain(error: Exception) -> int | None:
    """Print what went wrong to the standard error; the exit code, or None for a fault of our own."""
    from sweeper.config.cell import ConfigurationError

    if isinstance(error, ConfigurationError):
        return _print_mistakes(error)
    if isinstance(error, _known()) or (isinstance(error, OSError) and error.filename is not None):
        print(error, file=sys.stderr)
        return FAILED
    return None


def _print_mistakes(error: Exception) -> int:
    from sweeper.cli.display import problem_lines

    lines = problem_lines(error.problems)  # type: ignore[attr-defined]
    count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
    print(f"{count} in the configuration; nothing was run:", *lines, sep="\n", file=sys.stderr)
    return MISTAKE


def _known() -> tuple[type[Exception], ...]:
    from sweeper.analysis.open import NoStudyError
    from sweeper.contract.json_files import UnreadableFileError
    from sweeper.launchers.ask import NoReplyError
    from sweeper.preflight.slots import BusyDeviceError
    from sweeper.production.run import NothingToProduceError
    from sweeper.scheduler.ledger import StorageError
    from sweeper.study.folder import StudyIsBusyError
    from sweeper.tracking.ui import UiError

    return (
        NoStudyError, UnreadableFileError, NothingToProduceError, StorageError, BusyDeviceError,
        StudyIsBusyError, UiError, NoReplyError,
    )  # fmt: skip
