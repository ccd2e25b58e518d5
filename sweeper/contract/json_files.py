"""JSON files that are whole or not there. Standard library only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class UnreadableFileError(ValueError):
    """A record on disk is broken; the message names the file and says what to do."""

    def __init__(self, path: Path, why: object) -> None:
        """`why`: the error that reading it raised."""
        super().__init__(
            f"a record must be whole, but {path} cannot be read ({type(why).__name__}: {why}): restore the "
            "file, or move its folder away"
        )


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the whole file or none: temp file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, sort_keys=True, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises FileNotFoundError, or UnreadableFileError when it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # not ours to read, not UTF-8, or not JSON
        raise UnreadableFileError(path, error) from error
