"""What a person sees while a study runs."""

from __future__ import annotations

import os
import pty
import threading
from pathlib import Path

import pytest

from tests.support import forked
from tests.support.commands import SHORT, environment
from tests.support.stores import with_store


@pytest.mark.slow
def test_a_terminal_shows_a_live_table_with_progress(tmp_path: Path) -> None:
    shown = on_a_terminal(with_store(tmp_path), "-m", "optim=adamw,adafactor", *SHORT)
    for part in ("tokens/s", "peak MiB", "eval loss", "completed", "2 of 2 cells", "s left"):
        assert part in shown, shown
    assert "\x1b[" in shown, "the table is drawn in place"
    assert "Best: trial" in shown.replace("\x1b[1m", "")


def on_a_terminal(folder: Path, *arguments: str) -> str:
    """Everything that the command writes to a terminal of 120 columns."""
    main, secondary = pty.openpty()
    size = {**environment(), "COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color"}
    parts: list[bytes] = []
    reader = threading.Thread(target=_read, args=(main, parts))
    reader.start()
    terminal = os.ttyname(secondary)
    code = forked.run_on((terminal, terminal), arguments, folder, size, timeout_s=240)
    os.close(secondary)
    reader.join()
    assert code == 0, b"".join(parts).decode(errors="replace")
    os.close(main)
    return b"".join(parts).decode(errors="replace")


def _read(descriptor: int, parts: list[bytes]) -> None:
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:  # the other side was closed
            return
        if not part:
            return
        parts.append(part)
