"""Data goes one way, files stay small, and the command line starts fast."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sweeper", "trainers", "hydra_plugins")

# A file imports only what stands above it. A folder counts as one file.
ORDER = (
    "sweeper.schema_memory",
    "sweeper.schema_production",
    "sweeper.schema_search",
    "sweeper.schema",
    "sweeper.measurements",
    "sweeper.json_files",
    "sweeper.contract",
    "sweeper.contract_memory",
    "sweeper.masking",
    "sweeper.records",
    "sweeper.limits",
    "sweeper.provenance",
    "sweeper.config",
    "sweeper.rules",
    "sweeper.rules_production",
    "sweeper.objectives",
    "sweeper.dimensions",
    "sweeper.baseline",
    "sweeper.rules_search",
    "sweeper.compose",
    "sweeper.space",
    "sweeper.study",
    "sweeper.launchers",
    "sweeper.prediction",
    "sweeper.correction",
    "sweeper.time_model",
    "sweeper.memory_screen",
    "sweeper.bill",
    "sweeper.paper_claims",
    "sweeper.identity",
    "sweeper.fitting",
    "sweeper.dominance",
    "sweeper.lean",
    "sweeper.budget",
    "sweeper.pruning",
    "sweeper.slots",
    "sweeper.tracking_server",
    "sweeper.tracking_entries",
    "sweeper.tracking_store",
    "sweeper.tracking_view",
    "sweeper.tracking",
    "sweeper.ranking",
    "sweeper.units",
    "sweeper.cells",
    "sweeper.intervals",
    "sweeper.ties",
    "sweeper.effects",
    "sweeper.relaxation",
    "sweeper.choice",
    "sweeper.reading",
    "sweeper.studies",
    "sweeper.export",
    "sweeper.mlflow_ui",
    "sweeper.reproduction",
    "sweeper.pareto",
    "sweeper.cumulative",
    "sweeper.report",
    "sweeper.board",
    "sweeper.strategies",
    "sweeper.asking",
    "sweeper.running",
    "sweeper.scheduler",
    "sweeper.sweep",
    "sweeper.promise",
    "sweeper.model_card",
    "sweeper.production_config",
    "sweeper.production_run",
    "sweeper.production_model",
    "sweeper.production",
    "sweeper.display",
    "sweeper.progress",
    "sweeper.verbs",
    "sweeper.cli",
    "sweeper.__main__",
)
SHARED = {
    "sweeper.contract",
    "sweeper.contract_memory",
    "sweeper.json_files",
    "sweeper.measurements",
    "sweeper.schema",
    "sweeper.schema_memory",
    "sweeper.schema_production",
    "sweeper.schema_search",
}
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

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
DRIVER_SOURCES = [path for path in SOURCES if path.is_relative_to(ROOT / "sweeper")]
TRIAL_SOURCES = [path for path in SOURCES if path.is_relative_to(ROOT / "trainers")]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), label(path))


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names that `nodes` import; `from a.b import c` gives `a.b.c`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_anywhere(path: Path) -> set[str]:
    return set(imported(ast.walk(parse(path))))


def imported_at_start(path: Path) -> set[str]:
    """Imports that run when the module does: outside of functions and of `if TYPE_CHECKING`."""
    return set(imported(_outside_functions(parse(path))))


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _outside_functions(child)


def shortened(names: set[str], package: str) -> set[str]:
    """The files or folders right below `package` that `names` reach into."""
    inside = {name for name in names if name.split(".")[0] == package}
    return {".".join(name.split(".")[:2]) for name in inside}


def own_name(path: Path) -> str:
    """The file or folder right below its package that `path` is or lies in, as it is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts[:2])


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
    assert shortened(imported_anywhere(path), "sweeper") <= SHARED


@pytest.mark.parametrize("name", sorted(SHARED))
def test_the_contract_needs_only_the_standard_library(name: str) -> None:
    path = ROOT / f"{name.replace('.', '/')}.py"
    outside = {
        module for module in imported_anywhere(path) if module.split(".")[0] not in sys.stdlib_module_names
    }
    assert {".".join(module.split(".")[:2]) for module in outside} <= SHARED


def test_every_file_of_the_driver_has_its_place() -> None:
    assert sorted(ORDER) == sorted({own_name(path) for path in DRIVER_SOURCES} - {"sweeper.__init__"})


@pytest.mark.parametrize("name", ORDER)
def test_data_goes_one_way(name: str) -> None:
    sources = [path for path in DRIVER_SOURCES if own_name(path) == name]
    reached = {module for path in sources for module in shortened(imported_anywhere(path), "sweeper")}
    allowed = {*ORDER[: ORDER.index(name) + 1], "sweeper.__version__"}
    assert reached - allowed == set(), f"{name} must import only what stands above it in ORDER"


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
