"""What can be known before any trial: does the model load, does it have the layers, is the data sound.

`main` serves one folder: it reads `prepare.json` (`configs`, `cache_dir`) and writes `prepared.json`
with, for each configuration in the same order, its problems and the fingerprints of model and data.
As a side effect the tokenised data lies in the cache.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from sweeper.contract.config import Config, DataConfig, ModelConfig, from_dict
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.trial import Problem
from trainers.data.fingerprints import Memo, digest, file_hash, model_fingerprint
from trainers.data.prepared import prepare_data
from trainers.data.sources import DataError
from trainers.evaluation.quality import prepare_quality
from trainers.meters.environment import quiet_libraries
from trainers.methods.adapters import check_targets, linear_names
from trainers.methods.model import (
    empty_model,
    has_weights,
    load_config,
    load_tokenizer,
    max_positions,
    model_path,
)
from trainers.methods.optimizers import training_arguments
from trainers.methods.precision import device

LOCAL_PATHS = ("/", "./", "../")
"""How a path begins that can be no hub id."""
LOADING_ERRORS = (OSError, ValueError, ImportError, KeyError)
"""What `from_pretrained` and `from_config` raise for a model that cannot be had."""


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
        model_problems = self._once(("model", config.model), lambda: _model_problems(config.model))
        problems = [*model_problems, *_optimizer_problems(config), *_quantization_problems(config)]
        if model_problems:
            return Prepared(tuple(problems), None, None)
        data_problems, data_fingerprint = self._data(config)
        problems += data_problems
        problems += self._once(("targets", config.model, config.lora), lambda: _target_problems(config))
        problems += self._once(
            ("attention", config.model, config.attention, config.trial.device), lambda: _attention(config)
        )
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

    def _once(self, key: Any, find: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]


def _model_problems(model: ModelConfig) -> list[Problem]:
    """Whether configuration and tokenizer can be had and a causal language model be made of them."""
    if model.path.startswith(LOCAL_PATHS) and not Path(model.path).exists():
        rule, remedy = "the model's folder must exist", "correct the path, or give a hub id"
        return [Problem(rule, "model.path", model.path, remedy)]
    if not _weights_are_there(model):
        return [
            Problem(
                "a trial needs a model with weights, and this is a configuration only",
                "model.path",
                model.path,
                "ask `python -m sweeper memory` about it, or give a folder with *.safetensors, or a hub id",
            )
        ]
    steps: tuple[Callable[[ModelConfig], Any], ...] = (load_config, load_tokenizer, empty_model)
    for load in steps:
        try:
            load(model)
        except LOADING_ERRORS as error:
            return [
                Problem(
                    f"the model must be a causal language model that transformers can load: {_first(error)}",
                    "model.path",
                    model.path,
                    "give a folder written by save_pretrained, or a hub id (with model.revision, and "
                    "model.trust_remote_code=true if it brings code)",
                )
            ]
    return []


def _weights_are_there(model: ModelConfig) -> bool:
    """Only a folder that has a configuration and no weights is refused here; the rest is for transformers."""
    try:
        folder = Path(model_path(model))
    except ValueError:
        return True
    return has_weights(model) or not (folder / "config.json").is_file()


def _first(error: BaseException) -> str:
    """The beginning of a library's message, on one line."""
    return " ".join(str(error).split())[:300]


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
        rule = f"the data must be readable row by row, but gives {type(error).__name__}: {_first(error)}"
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


def _target_problems(config: Config) -> list[Problem]:
    try:
        missing = check_targets(config)
    except ValueError as error:
        rule, _, remedy = str(error).rpartition(": ")
        return [Problem(rule, "lora.target_modules", str(config.lora.target_modules), remedy)]
    names = sorted(linear_names(empty_model(config.model))) if missing else []
    return [
        Problem(
            f"lora.target_modules must name modules that {config.model.path} has",
            "lora.target_modules",
            name,
            f"name linear layers, of {', '.join(names)}",
        )
        for name in missing
    ]


def _attention(config: Config) -> list[Problem]:
    if config.attention.startswith("flash_attention") and not _has_flash_attention(config):
        return []  # the rules of the driver have said so
    try:
        empty_model(config.model, config.attention)
    except LOADING_ERRORS as error:
        return [
            Problem(
                f"the model's class must support the attention kernel: {_first(error)}",
                "attention",
                config.attention,
                "set attention=sdpa or attention=eager",
            )
        ]
    return []


def _has_flash_attention(config: Config) -> bool:
    module = "flash_attn_interface" if config.attention == "flash_attention_3" else "flash_attn"
    return device(config).type == "cuda" and importlib.util.find_spec(module) is not None


def _quantization_problems(config: Config) -> list[Problem]:
    if config.quantization == "none":
        return []
    if importlib.util.find_spec("bitsandbytes") is None:
        rule, remedy = "quantization needs the package bitsandbytes", "install bitsandbytes"
    elif config.quantization == "int8" and config.lora.use_dora and device(config).type == "cpu":
        # peft's reading of int8 weights on CPU drops their scales (peft 0.21, bitsandbytes 0.50)
        rule, remedy = (
            "lora.use_dora on int8 weights needs CUDA",
            "use quantization=nf4 or lora.use_dora=false",
        )
    else:
        return []
    return [Problem(rule, "quantization", config.quantization, remedy)]


def _optimizer_problems(config: Config) -> list[Problem]:
    schedules = [item.value for item in SchedulerType]
    optimizers = [item.value for item in OptimizerNames]
    problems = [
        *_unknown_name("optim", config.optim, optimizers),
        *_unknown_name("train.lr_scheduler_type", config.train.lr_scheduler_type, schedules),
    ]
    return problems or _optimizer_import(config)


def _unknown_name(key: str, value: str, known: Iterable[str]) -> list[Problem]:
    names = list(known)
    if value in names:
        return []
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.5) or names
    return [Problem(f"{key} must be a name that transformers knows", key, value, f"one of {', '.join(near)}")]


def _optimizer_import(config: Config) -> list[Problem]:
    """Whether the package behind the optimizer is there and takes `train.optim_args`."""
    on_cpu = dataclasses.replace(config.trial, device="cpu")
    neutral = dataclasses.replace(config, trial=on_cpu, precision="fp32")
    try:
        Trainer.get_optimizer_cls_and_kwargs(training_arguments(neutral, steps=1, folder=Path()))
    except (ImportError, ValueError, KeyError, AttributeError) as error:
        return [
            Problem(
                f"the optimizer must be usable here: {_first(error)}",
                "optim",
                config.optim,
                "install the package that it names, correct train.optim_args, or take another optimizer",
            )
        ]
    return []
