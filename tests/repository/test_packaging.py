"""The wheel, installed elsewhere, is whole and runs the main job; what it depends on is what it uses."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import SHORT
from tests.support.sources import PACKAGES, ROOT, SOURCES, imported_anywhere

UNIMPORTED = {"safetensors"}
"""Dependencies that are named for the format they bring: transformers and peft import them."""


def run(command: list[str | Path], folder: Path, timeout_s: float = 200) -> str:
    """Standard output of `command`, run in `folder` without a way back to the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build: list[str | Path] = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    run([*build, "--outdir", folder, ROOT], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel and sees the libraries of this one.

    A path in a .pth file is searched, but the .pth files in it are not: an editable install of the
    checkout among these libraries stays out of sight.
    """
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder.parent)
    python = folder / "bin" / "python"
    install: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index"]
    run([*install, "--no-deps", wheel], folder.parent)
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    libraries = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (site / "libraries.pth").write_text("\n".join(dict.fromkeys(libraries)) + "\n", encoding="utf-8")
    return folder / "bin"


def contents(folder: Path) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return loaded["project"]  # type: ignore[no-any-return]


def normalised(distribution: str) -> str:
    """Name of a distribution as indexes compare it, without versions and extras."""
    name = re.split(r"[^A-Za-z0-9._-]", distribution, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_distributions() -> dict[str, set[str]]:
    """Top-level modules that the packages import, each with the distributions that install it."""
    names = {name.split(".")[0] for path in SOURCES for name in imported_anywhere(path)}
    outside = names - set(PACKAGES) - sys.stdlib_module_names
    known = packages_distributions()
    return {name: {normalised(owner) for owner in known.get(name, [name])} for name in outside}


def test_the_wheel_holds_packages_choices_and_embedded_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {name for package in PACKAGES for name in contents(ROOT / package)}
    expected |= {f"sweeper/{name}" for name in contents(ROOT / "conf")}
    assert expected <= names
    assert any(name.startswith("sweeper/conf/") for name in names)
    assert any(name.startswith("trainers/") and name.endswith(".safetensors") for name in names)
    assert not {name.split("/")[0] for name in names if ".dist-info/" not in name} - set(PACKAGES)


def test_every_import_is_declared_and_every_dependency_imported() -> None:
    metadata = project()
    declared = {normalised(requirement) for requirement in metadata["dependencies"]}
    optional = {normalised(entry) for extra in metadata["optional-dependencies"].values() for entry in extra}
    imported = imported_distributions()
    undeclared = {name for name, owners in imported.items() if not owners & (declared | optional)}
    assert undeclared == set(), "imported, but not in dependencies of pyproject.toml"
    unused = declared - UNIMPORTED - {owner for owners in imported.values() for owner in owners}
    assert unused == set(), "in dependencies of pyproject.toml, but never imported"


def test_constraints_pin_every_dependency_exactly() -> None:
    metadata = project()
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)] == []
    wanted = {
        normalised(entry) for entry in [*metadata["dependencies"], *metadata["optional-dependencies"]["dev"]]
    }
    assert wanted - {normalised(pin) for pin in pins} == set()


def test_the_wheel_runs_elsewhere_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import sweeper, trainers; print(sweeper.__file__, trainers.__file__, sep='\\n')"
    files = run([installed / "python", "-c", code], tmp_path).split()
    assert [file for file in files if Path(file).is_relative_to(ROOT)] == []
    assert "lora.r" in run([installed / "sweeper", "--help"], tmp_path)


def test_the_wheel_runs_the_main_job(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    run([installed / "python", "-m", "sweeper", "-m", "lora.r=8,16", *SHORT], folder)
    results = [
        json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("studies/*/trials/*/result.json")
    ]
    assert [result["outcome"] for result in results] == ["completed"] * 2
    assert {path.name for path in folder.iterdir()} == {"studies", "mlflow.db"}
