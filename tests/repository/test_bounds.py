"""Every dependency has a lower bound, and what is installed here keeps it."""

from __future__ import annotations

import tomllib
from importlib.metadata import version

import pytest
from packaging.version import Version

from tests.support.oldest import lowest_versions
from tests.support.sources import ROOT


def test_what_is_installed_is_not_older_than_the_oldest_set() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = dict(line.split("==") for line in lowest_versions(project["dependencies"]))
    assert len(oldest) == len(project["dependencies"])
    too_old = {name for name, lowest in oldest.items() if Version(version(name)) < Version(lowest)}
    assert too_old == set()


def test_a_dependency_without_a_lower_bound_is_told() -> None:
    with pytest.raises(ValueError, match="torch<3"):
        list(lowest_versions(["numpy>=2", "torch<3"]))
