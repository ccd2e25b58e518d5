"""The source files of this repository, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sweeper", "trainers")
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
