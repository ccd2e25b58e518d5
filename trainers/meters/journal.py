"""The lines a trial writes to `progress.jsonl` while it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sweeper.contract.trial import TrialProgress


class Journal:
    """Appends progress lines to one file, opened once and flushed per line."""

    def __init__(self, path: Path, elapsed_s: Callable[[], float]) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._elapsed_s = elapsed_s

    def write(self, event: str, **fields: Any) -> None:
        """Append one line; `fields` are those of `TrialProgress`."""
        progress = TrialProgress(event=event, time_s=round(self._elapsed_s(), 6), **fields)
        self._file.write(progress_line(progress))

    def sync(self) -> None:
        """Make what was written survive the machine, not only the process."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def progress_line(progress: TrialProgress) -> str:
    """The record as a line of the file."""
    return json.dumps(progress.to_json()) + "\n"
