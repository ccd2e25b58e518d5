"""The names and shapes of a checkpoint, held against the model that is to be made of them."""

from __future__ import annotations

import copy
import logging as levels
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from sweeper.contract.trial import Problem
from trainers.checkpoint.files import WEIGHT_TYPES, Header, some
from trainers.checkpoint.quantized import read_quantization


class MadeUpWeightsError(RuntimeError):
    """The loaded model holds weights that came from no file."""


def find_weight_problems(
    path: str, model_config: PretrainedConfig, empty: PreTrainedModel, headers: Mapping[str, Header]
) -> list[Problem]:
    """Weights that loading would make up, because the checkpoint lacks them or has them in another shape."""
    quantized = read_quantization(model_config) is not None
    if not quantized and (problem := _find_raw_codes(path, headers)):
        return [problem]
    try:
        info = _load_shapes(model_config, type(empty), headers)
    except (RuntimeError, ValueError, KeyError) as error:
        rule = f"the checkpoint must fit {type(empty).__name__}: {_last_line(error)}"
        return [Problem(rule, "model.path", path, REMEDY)]
    missing = made_up(empty, info["missing_keys"])
    # packed weights have other shapes than those that they stand for
    others = [] if quantized else sorted(info["mismatched_keys"], key=str)
    problems = []
    if missing:
        problems.append(Problem(_say_missing(empty, missing, info), "model.path", path, REMEDY))
    if others:
        problems.append(Problem(_say_shapes(empty, others), "model.path", path, REMEDY))
    return problems


REMEDY = "give a complete checkpoint with the config.json that was saved beside it"


def _load_shapes(
    model_config: PretrainedConfig, model_class: Any, headers: Mapping[str, Header]
) -> dict[str, Any]:
    """What transformers' own loading says of these names and shapes: no value is read, no memory taken.

    Renamings, tied weights and experts that are stacked at load are known to it alone.
    """
    shapes = {name: torch.empty(header.shape, device="meta") for name, header in headers.items()}
    plain = copy.deepcopy(model_config)
    for holder in (plain, plain.get_text_config()):
        if getattr(holder, "quantization_config", None) is not None:
            del holder.quantization_config
    level = logging.get_verbosity()
    logging.set_verbosity(levels.CRITICAL)
    try:
        _, info = model_class.from_pretrained(
            None,
            config=plain,
            state_dict=shapes,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(level)
    return dict(info)


def _find_raw_codes(path: str, headers: Mapping[str, Header]) -> Problem | None:
    """Weights in a type that is no number format for training, in a checkpoint that says nothing of it."""
    codes = sorted(
        name
        for name, header in headers.items()
        if name.endswith("weight") and header.dtype not in WEIGHT_TYPES
    )
    if not codes:
        return None
    rule = (
        f"weights must be stored in one of {', '.join(WEIGHT_TYPES)}, but {some(codes)} is "
        f"{headers[codes[0]].dtype}, and config.json says nothing of how to read it"
    )
    return Problem(rule, "model.path", path, "give the model that it was quantised from")


def made_up(model: nn.Module, missing: Iterable[str]) -> list[str]:
    """Parameters of `model` among the names that a checkpoint lacks, in order. What it merely shares with
    another, and buffers that are computed, are none."""
    lacking = set(missing)
    return [name for name, _ in model.named_parameters() if name in lacking]


def refuse_made_up(model: PreTrainedModel, info: Mapping[str, Any]) -> None:
    """Raise MadeUpWeightsError for a model that was loaded with weights that its checkpoint does not hold."""
    missing = made_up(model, info["missing_keys"])
    if missing or info["mismatched_keys"]:
        names = [*missing, *(str(name) for name, *_ in info["mismatched_keys"])]
        said = f"the checkpoint must hold every weight of {type(model).__name__}, but not {some(names)}"
        raise MadeUpWeightsError(f"{said}: {REMEDY}")


def _say_missing(empty: PreTrainedModel, missing: list[str], info: Mapping[str, Any]) -> str:
    count = sum(1 for _ in empty.named_parameters())
    said = f"the checkpoint must hold every weight of {type(empty).__name__}"
    said += f", but lacks {len(missing)} of {count}: {some(missing)}"
    foreign = sorted(info["unexpected_keys"])
    return f"{said} (it holds others: {some(foreign)})" if foreign else said


def _say_shapes(empty: PreTrainedModel, mismatched: list[Any]) -> str:
    name, found, wanted = mismatched[0]
    rest = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
    return (
        f"the weights must have the shapes of {type(empty).__name__}, but {name} is {list(found)} instead of "
        f"{list(wanted)}{rest}"
    )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
