"""Whether a model predicts a token from those before it alone: else it sees the answers that it learns."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sweeper.contract.trial import Problem

SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "embedding_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": 2,
}
"""Sizes of the small instance on which a model's class is tried, by transformers' common names."""
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
TOKENS = 6
TOLERANCE = 1e-5
"""Largest difference between logits that is rounding where a class computes parts in float32. What a later
token does to the logits of a small BERT of random weights is 3e-3 (measured; RoBERTa and BigBird alike)."""
LARGEST_TRIED = 20_000_000
"""Parameters above which a small instance is not made: its class knows its sizes by other names."""


def find_causality_problems(
    path: str, model_config: PretrainedConfig, trust_remote_code: bool
) -> list[Problem]:
    """Whether the logits of a prefix stay what they are when one more token follows it.

    A small instance of random weights answers for the class. A class that has none is taken at its word.
    """
    if model_config.is_encoder_decoder:
        rule = f"the model must be a decoder, but {model_config.model_type} is an encoder and a decoder"
        return [Problem(rule, "model.path", path, REMEDY)]
    model = _small_instance(model_config, trust_remote_code)
    change = _change_of_prefix(model) if model is not None else None
    if change is None or change <= TOLERANCE:
        return []
    rule = (
        f"the model must predict a token from those before it alone, but {type(model).__name__} sees those "
        "after it too, so it would be trained to copy the answer"
    )
    return [Problem(rule, "model.path", path, REMEDY)]


REMEDY = "give a causal language model (or set is_decoder=true in config.json of one that can be both)"


def _small_instance(model_config: PretrainedConfig, trust_remote_code: bool) -> PreTrainedModel | None:
    try:
        small = _shrink(model_config)
        with torch.device("meta"):
            shapes = AutoModelForCausalLM.from_config(
                copy.deepcopy(small), trust_remote_code=trust_remote_code
            )
        if sum(weight.numel() for weight in shapes.parameters()) > LARGEST_TRIED:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                small, trust_remote_code=trust_remote_code, dtype=torch.float64
            )
    except Exception:  # noqa: BLE001 - what classes raise for sizes that they do not take is no closed set
        return None
    model.eval()
    return model


def _shrink(model_config: PretrainedConfig) -> PretrainedConfig:
    small: Any = copy.deepcopy(model_config)
    for name, value in {**SMALL, **dict.fromkeys(SPECIAL_TOKENS, 0)}.items():
        if getattr(small, name, None) is not None:
            setattr(small, name, value)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[: SMALL["num_hidden_layers"]]
    if getattr(small, "quantization_config", None) is not None:
        del small.quantization_config
    shrunk: PretrainedConfig = small
    return shrunk


def _change_of_prefix(model: PreTrainedModel) -> float | None:
    """Largest change of a prefix's logits by a token after it; None where the class does not run so small."""
    ids = torch.arange(2, 2 + TOKENS)[None]
    try:
        with torch.no_grad():
            longer: torch.Tensor = model(input_ids=ids).logits[:, :-1]
            shorter: torch.Tensor = model(input_ids=ids[:, :-1]).logits
    except Exception:  # noqa: BLE001 - as above
        return None
    return float((longer - shorter).abs().max())
