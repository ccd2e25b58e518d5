"""Data goes one way, files stay small, and the command line starts fast."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sources import (
    DRIVER_SOURCES,
    PACKAGES,
    ROOT,
    SOURCES,
    TRIAL_SOURCES,
    imported_anywhere,
    imported_at_start,
    label,
    parse,
)

# A room imports only from floors below its own. Rooms on one floor do not know each other.
FLOORS = (
    "contract",
    "study machine",
    "ranking",
    "config tracking launchers",
    "space",
    "preflight strategies analysis",
    "scheduler production report",
    "sweep",
    "cli",
    "__main__",
)
HEAVY = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "mlflow",
    "optuna",
    "pandas",
    "peft",
    "plotly",
    "pyarrow",
    "scipy",
    "torch",
    "transformers",
}
LINES_OF_A_FILE = 330
LINES_OF_A_FUNCTION = 60
LINES_OF_MOST_FUNCTIONS = 30


def shortened(names: set[str], package: str) -> set[str]:
    """The files or folders right below `package` that `names` reach into."""
    inside = {name for name in names if name.split(".")[0] == package}
    return {".".join(name.split(".")[:2]) for name in inside}


def room(path: Path) -> str:
    """The folder or file right below `sweeper` that `path` lies in or is."""
    return path.relative_to(ROOT / "sweeper").with_suffix("").parts[0]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function, decorators left out."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{label(path)}: {node.name}", node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", DRIVER_SOURCES, ids=label)
def test_the_driver_never_imports_trainers(path: Path) -> None:
    assert not shortened(imported_anywhere(path), "trainers")


@pytest.mark.parametrize("path", TRIAL_SOURCES, ids=label)
def test_trainers_import_only_the_contract_of_the_driver(path: Path) -> None:
    assert shortened(imported_anywhere(path), "sweeper") <= {"sweeper.contract"}


def test_the_contract_needs_only_the_standard_library() -> None:
    sources = [path for path in DRIVER_SOURCES if room(path) == "contract"]
    modules = {name for path in sources for name in imported_anywhere(path)}
    outside = {name for name in modules if name.split(".")[0] not in sys.stdlib_module_names}
    assert shortened(outside, "sweeper") == {"sweeper.contract"} and sources
    assert {name.split(".")[0] for name in outside} == {"sweeper"}


def test_every_room_stands_on_a_floor() -> None:
    rooms = {room(path) for path in DRIVER_SOURCES} - {"__init__"}
    assert sorted(rooms) == sorted(" ".join(FLOORS).split()) and len(rooms - {"__main__"}) <= 16


@pytest.mark.parametrize("path", [path for path in DRIVER_SOURCES if room(path) != "__init__"], ids=label)
def test_arrows_only_go_down(path: Path) -> None:
    (floor,) = [number for number, rooms in enumerate(FLOORS) if room(path) in rooms.split()]
    below = {f"sweeper.{name}" for name in " ".join(FLOORS[:floor]).split()}
    allowed = below | {f"sweeper.{room(path)}", "sweeper.__version__"}
    assert shortened(imported_anywhere(path), "sweeper") <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_no_room_reaches_past_a_private_name_of_another(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            private = [
                alias.name for alias in node.names if alias.name.startswith("_") and "__" not in alias.name
            ]
            assert not private, f"{node.module}: {private}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path not in TRIAL_SOURCES], ids=label)
def test_slow_libraries_are_imported_where_they_are_used(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported_at_start(path)} & HEAVY


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_file_holds_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_OF_A_FILE


def test_functions_fit_on_a_screen() -> None:
    lengths = dict(item for path in SOURCES for item in functions(path))
    assert not {name: lines for name, lines in lengths.items() if lines > LINES_OF_A_FUNCTION}
    short = sum(lines <= LINES_OF_MOST_FUNCTIONS for lines in lengths.values())
    assert short >= 0.9 * len(lengths)


def test_help_loads_no_slow_library(tmp_path: Path) -> None:
    """`-X importtime` names every module that the process really loads, Hydra's plugins included."""
    command = [sys.executable, "-X", "importtime", "-m", "sweeper", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    timings = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in timings}
    assert "sweeper" in loaded
    assert not loaded & (HEAVY | {"trainers"})
    assert not list(tmp_path.iterdir()), "--help must write nothing"
