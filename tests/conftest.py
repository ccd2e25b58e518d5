"""What holds for every test: no network, no telemetry, no threads that outlive a fork or wait for others.

Set before any library reads it; trial processes inherit it.
"""

import os

import pytest

from tests.support import forked

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

LONGEST = (
    "test_main_job", "test_readme", "test_memory_verb", "test_production", "test_methods", "test_conf",
    "test_verbs", "test_memory", "test_packaging", "test_benchmarks", "test_display", "test_checkpoints",
    "test_search", "test_tracking", "test_mistakes",
)  # fmt: skip
"""Files by the time they take. A worker takes a whole file, so the long ones must not come last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Before coverage is put together."""
    forked.close()
