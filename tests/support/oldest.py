"""The oldest versions that pyproject.toml allows, as constraints for pip: what `make test-oldest` installs.

Arguments (`torch==2.13.0`) are versions to take instead.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOWEST = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def lowest_versions(requirements: Iterable[str]) -> Iterator[str]:
    """`name==version` for each requirement, of its lower bound. Raises ValueError for one that has none."""
    for requirement in requirements:
        found = LOWEST.match(requirement)
        if found is None:
            raise ValueError(f"a dependency must have a lower bound, but got {requirement}: give it one")
        yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    kept = {line.partition("==")[0]: line for line in sys.argv[1:]}
    oldest = {line.partition("==")[0]: line for line in lowest_versions(project["dependencies"])}
    sys.stdout.write("\n".join({**oldest, **kept}.values()) + "\n")
