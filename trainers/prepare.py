"""What can be known before any trial: does the model load, does it have the layers, is the data sound.

`main` serves one folder: it reads `prepare.json` (`configs`, `cache_dir`) and writes `prepared.json`
with, for each configuration in the same order, its problems and the fingerprints of model and data.
As a side effect the tokenised data lies in the cache.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sweeper.contract.config import Config, DataConfig, from_dict
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.trial import Problem
from trainers.checkpoint.problems import find_model_problems
from trainers.data.fingerprints import Memo, digest, file_hash, model_fingerprint
from trainers.data.prepared import prepare_data
from trainers.data.sources import DataError
from trainers.evaluation.quality import prepare_quality
from trainers.meters.environment import quiet_libraries
from trainers.methods import METHODS, Method
from trainers.model.source import (
    load_config,
    load_tokenizer,
    max_positions,
    model_path,
    shorten,
)


@dataclass(frozen=True)
class Prepared:
    """What was found about one configuration."""

    problems: tuple[Problem, ...]
    model_fingerprint: str | None
    data_fingerprint: str | None


def main(folder: Path) -> None:
    """Answer `folder/prepare.json` with `folder/prepared.json`."""
    asked = read_json(folder / "prepare.json")
    cells = run(asked["configs"], Path(asked["cache_dir"]))
    write_json(folder / "prepared.json", {"cells": [dataclasses.asdict(cell) for cell in cells]})


def run(requests: Sequence[dict[str, Any]], cache_dir: Path) -> list[Prepared]:
    """Check each configuration, in order; what several share is looked at once."""
    quiet_libraries()
    preparation = _Preparation(cache_dir)
    return [preparation.cell(from_dict(request)) for request in requests]


class _Preparation:
    """Answers of one run, each found once."""

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir
        self._known: dict[Any, Any] = {}

    def cell(self, config: Config) -> Prepared:
        model_problems = self._once(
            ("model", config.model), lambda: find_model_problems(config.model, self._cache_dir)
        )
        problems = [*model_problems, *(problem for method in METHODS for problem in method.check(config))]
        if model_problems:
            return Prepared(tuple(problems), None, None)
        data_problems, data_fingerprint = self._data(config)
        problems += data_problems
        for method in METHODS:
            problems += self._on_model(method, config)
        fingerprint = self._once(
            ("fingerprint", config.model),
            lambda: model_fingerprint(config.model, model_path(config.model), self._cache_dir),
        )
        return Prepared(tuple(problems), fingerprint, data_fingerprint)

    def _data(self, config: Config) -> tuple[list[Problem], str | None]:
        found: tuple[list[Problem], str | None] = self._once(
            ("data", config.model, config.data, config.evaluate),
            lambda: _data_problems(config, self._cache_dir),
        )
        return found

    def _on_model(self, method: Method, config: Config) -> list[Problem]:
        looked_at = [getattr(config, name) for name in method.check_looks_at]
        found: list[Problem] = self._once(
            (method.name, *looked_at), lambda: list(method.check_on_model(config))
        )
        return found

    def _once(self, key: Any, find: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]


def _data_problems(config: Config, cache_dir: Path) -> tuple[list[Problem], str | None]:
    """Problems of the data, or its fingerprint once its tokens lie in the cache."""
    too_long = _length_problem(config)
    if too_long:
        return too_long, None
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(config.model)
    try:
        prepared = prepare_data(config, tokenizer, cache_dir, refresh=True)
        prepare_quality(config, tokenizer, prepared.collator, cache_dir)
    except DataError as error:
        return [_data_problem(config.data, problem) for problem in error.problems], None
    except Exception as error:  # noqa: BLE001 - what the readers raise for bytes they cannot read is no closed set
        traceback.print_exc()
        rule = f"the data must be readable row by row, but gives {type(error).__name__}: {shorten(error)}"
        return [Problem(rule, "data.path", config.data.path, "correct or convert the data")], None
    return [], _with_general_text(config.data, prepared.fingerprint, cache_dir)


def _with_general_text(data: DataConfig, fingerprint: str, cache_dir: Path) -> str:
    """The data's fingerprint with that of the text that `forgetting` is measured on."""
    if data.general_path is None:
        return fingerprint
    return digest([fingerprint, file_hash(Path(data.general_path), Memo(cache_dir))])


def _data_problem(data: DataConfig, problem: str) -> Problem:
    """A `DataError` says rule, place and remedy in one sentence, the remedy after the last colon."""
    rule, separator, remedy = problem.rpartition(": ")
    return Problem(
        rule if separator else problem, "data.path", data.path, remedy if separator else "correct it"
    )


def _length_problem(config: Config) -> list[Problem]:
    positions = max_positions(load_config(config.model))
    if positions is None or config.data.max_length <= positions:
        return []
    return [
        Problem(
            f"data.max_length must be within the {positions} positions of {config.model.path}",
            "data.max_length",
            str(config.data.max_length),
            f"lower it to {positions} or less",
        )
    ]
