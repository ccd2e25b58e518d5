"""Which data options make sense together, and which files they may name. Rules for `sweeper.config.rules`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sweeper.contract.config import Config, DataConfig
from sweeper.contract.trial import Problem
from sweeper.machine import Machine

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
GENERAL_SUFFIXES = (".jsonl", ".txt")
IGNORED = {
    "embedded": "path eval_path eval_fraction name revision train_split eval_split".split(),
    "file": "name revision train_split eval_split".split(),
    "hub": ["eval_path"],
}
"""Source -> options that have no effect with it."""
SOURCE_NAMES = {"embedded": "the embedded data", "file": "a file", "hub": "a data set of the hub"}
REMEDIES = {
    "path": "add data=jsonl to train on a file, or data=hf for a data set of the hub",
    "eval_path": "add data=jsonl to train on a file; a data set of the hub has data.eval_split",
    "eval_fraction": "add data=jsonl to train on a file of yours, or leave it out",
}
HUB_REMEDY = "add data=hf to train on a data set of the hub, or leave it out"


def data_source(config: Config, machine: Machine) -> Iterator[Problem]:
    """No option is set that the source of the data ignores."""
    source = config.data.source
    for name in IGNORED[source]:
        value = getattr(config.data, name)
        if value != getattr(DataConfig, name):
            key = f"data.{name}"
            rule = f"{key} has no effect with {SOURCE_NAMES[source]} (data.source={source})"
            yield Problem(rule, key, str(value), REMEDIES.get(name, HUB_REMEDY))


def data_file(config: Config, machine: Machine) -> Iterator[Problem]:
    """Data files are there and of a known format."""
    if config.data.source != "file":
        return
    for key, name in (("data.path", config.data.path), ("data.eval_path", config.data.eval_path)):
        if name is None:
            continue
        if Path(name).suffix not in DATA_SUFFIXES:
            formats = ", ".join(DATA_SUFFIXES)
            yield Problem(f"{key} must end in one of {formats}", key, name, "convert or rename the file")
        elif not Path(name).is_file():
            yield Problem(f"{key} must be a file", key, name, "correct the path")


def general_text(config: Config, machine: Machine) -> Iterator[Problem]:
    """The general corpus can be read."""
    name = config.data.general_path
    if name is None:
        return
    if Path(name).suffix not in GENERAL_SUFFIXES:
        formats = " or ".join(GENERAL_SUFFIXES)
        yield Problem(
            f"data.general_path must end in {formats}", "data.general_path", name, "convert the file"
        )
    elif not Path(name).is_file():
        yield Problem("data.general_path must be a file", "data.general_path", name, "correct the path")
