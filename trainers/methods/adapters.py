"""The LoRA adapter on a base model, through PEFT, or the base model itself for a full fine-tune."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sweeper.contract.config import Config, LoraSettings
from sweeper.contract.trial import Problem
from trainers.methods.method import Facts, Method, compare, shorten_list
from trainers.methods.precision import trains_in_float32, weights_dtype
from trainers.model.layers import (
    base_modules,
    base_weights,
    is_linear,
    linear_names,
    output_head,
    unwrap,
)
from trainers.model.source import empty_model, load_config

QUERY_VALUE_NAMES = (("q_proj", "v_proj"), ("query", "value"), ("q", "v"), ("q_lin", "v_lin"))
"""Names of query and value projections in architectures that PEFT's mapping lacks."""
FUSED_NAMES = ("qkv_proj", "query_key_value", "Wqkv", "c_attn", "qkv")
"""Names of projections that hold query, key and value together."""
SCALING_DIGITS = 6
"""Decimal places to which the scaling of adapters is recorded."""
FEED_FORWARD_NAMES = frozenset({"fc1", "fc2"})
"""Feed-forward layers that PEFT's mapping adds for some architectures; the paper's default has none."""


def add_adapter(base: PreTrainedModel, config: Config) -> nn.Module:
    """The model that is trained: every weight of `base`, or `base` frozen under a LoRA adapter.

    A is drawn from a normal distribution and B is zero, so that training starts at the base model.
    """
    if config.adapter == "full":
        return base
    settings = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora.dropout,
        target_modules=target_modules(config, base.config, base),
        use_rslora=config.lora.use_rslora,
        use_dora=config.lora.use_dora,
        init_lora_weights="gaussian",
        task_type="CAUSAL_LM",
    )
    in_float32 = trains_in_float32(config)
    model = get_peft_model(base, settings, autocast_adapter_dtype=in_float32)
    if not in_float32:
        _hold_adapter_in(model, weights_dtype(config))
    return model


def _hold_adapter_in(model: PeftModel, dtype: torch.dtype) -> None:
    """PEFT makes adapters on quantised layers in float32, whatever the other weights are."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def target_modules(config: Config, model_config: PretrainedConfig, model: nn.Module) -> str | list[str]:
    """The modules that get an adapter, in PEFT's terms. Raises ValueError when none is found for
    `query_value`."""
    wanted = config.lora.target_modules
    if wanted == "query_value":
        return _query_value(model_config, model)
    return wanted if isinstance(wanted, str) else list(wanted)


def _query_value(model_config: PretrainedConfig, model: nn.Module) -> str | list[str]:
    known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_config.model_type)
    if isinstance(known, str):
        return known  # a regular expression for a model with several parts
    names = linear_names(model)
    candidates = [*([known] if known else []), *QUERY_VALUE_NAMES, *((name,) for name in FUSED_NAMES)]
    for candidate in candidates:
        attention_only = [name for name in candidate if name not in FEED_FORWARD_NAMES]
        if attention_only and set(attention_only) <= names:
            return attention_only
    raise ValueError(
        "`lora.target_modules=query_value` needs query and value projections, but "
        f"{model_config.model_type!r} has none with a known name: list module names, of {sorted(names)}"
    )


def wanted_adapters(config: Config, base: PreTrainedModel) -> set[str]:
    """Names of the modules of `base` that `lora.target_modules` asks for, by PEFT's rules for them."""
    wanted, modules = target_modules(config, base.config, base), list(base_modules(base))
    if wanted == "all-linear":
        head = output_head(base)
        return {name for name, module in modules if is_linear(module) and module is not head}
    if isinstance(wanted, str):
        return {name for name, _ in modules if re.fullmatch(wanted, name)}
    return {name for name, _ in modules if any(f".{name}".endswith(f".{target}") for target in wanted)}


def check_targets(config: Config) -> list[str]:
    """Names in `lora.target_modules` that the model does not have; loads no weights.

    Raises ValueError when `query_value` cannot be resolved.
    """
    if config.adapter != "lora" or config.lora.target_modules == "all-linear":
        return []
    model = empty_model(config.model)
    wanted = target_modules(config, load_config(config.model), model)
    if isinstance(wanted, str):
        return [] if config.lora.target_modules == "query_value" else _missing(model, [wanted])
    return _missing(model, wanted)


def _missing(model: nn.Module, wanted: list[str]) -> list[str]:
    """A name matches a module that it equals or whose name it ends, as in PEFT."""
    names = [name for name, _ in model.named_modules()]
    return [target for target in wanted if not any(f".{name}".endswith(f".{target}") for name in names)]


def save_adapter(model: nn.Module, folder: Path) -> int | None:
    """Save the adapter; size of its weights in bytes, or None for a full fine-tune."""
    if not isinstance(model, PeftModel):
        return None
    # the embeddings are not trained: without this, PEFT looks the base model up on the hub
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _check_on_model(config: Config) -> Iterator[Problem]:
    try:
        missing = check_targets(config)
    except ValueError as error:
        rule, _, remedy = str(error).rpartition(": ")
        yield Problem(rule, "lora.target_modules", str(config.lora.target_modules), remedy)
        return
    names = ", ".join(sorted(linear_names(empty_model(config.model)))) if missing else ""
    for name in missing:
        rule = f"lora.target_modules must name modules that {config.model.path} has"
        yield Problem(rule, "lora.target_modules", name, f"name linear layers, of {names}")


def _find_in_model(model: nn.Module, config: Config) -> dict[str, Any]:
    facts: dict[str, Any] = {"base_frozen": not any(weight.requires_grad for weight in base_weights(model))}
    base = unwrap(model)
    adapted = {name: m for name, m in base_modules(base) if isinstance(m, LoraLayer)}
    if not adapted:
        return facts | {"adapter_modules": 0}
    layers, wanted = list(adapted.values()), wanted_adapters(config, base)
    scalings = {scaling for layer in layers for scaling in layer.scaling.values()}
    down = [weight for layer in layers for weight in _weights(layer.lora_A)]
    up = [weight for layer in layers for weight in _weights(layer.lora_B)]
    return facts | {
        "adapter_modules": len(layers),
        "adapters_missing": sorted(wanted - adapted.keys()),
        "adapters_beyond": sorted(adapted.keys() - wanted),
        "adapter_ranks": sorted({rank for layer in layers for rank in layer.r.values()}),
        "adapter_scaling": sorted({round(scaling, SCALING_DIGITS) for scaling in scalings}),
        "dora": all(any(layer.use_dora.values()) for layer in layers),
        "lora_a_is_random": all(bool(weight.float().std() > 0) for weight in down),
        "lora_b_is_zero": all(not weight.any() for weight in up),
    }


def _weights(modules: nn.ModuleDict) -> list[nn.Parameter]:
    return [layer.weight for layer in modules.values() if isinstance(layer.weight, nn.Parameter)]


def _judge(config: Config, active: Facts) -> Iterator[str]:
    yield from compare(adapter=(active.get("base_frozen"), config.adapter == "lora"))
    if config.adapter == "full":
        if active.get("adapter_modules"):
            yield "`adapter=full` must train no adapter, but has one"
        return
    facts = {
        "adapter modules": bool(active.get("adapter_modules")),
        "rank": active.get("adapter_ranks") == [config.lora.r],
        "scaling": active.get("adapter_scaling") == [round(scaling(config.lora), SCALING_DIGITS)],
        "random A": active.get("lora_a_is_random"),
        "zero B": active.get("lora_b_is_zero"),
        "lora.use_dora": active.get("dora") == config.lora.use_dora,
    }
    for name, holds in facts.items():
        if not holds:
            yield f"`adapter=lora` must have its {name} at the start"
    if missing := active.get("adapters_missing"):
        yield f"`lora.target_modules` must carry adapters, but {shorten_list(missing)} has none"
    if beyond := active.get("adapters_beyond"):
        yield f"only `lora.target_modules` must carry adapters, but {shorten_list(beyond)} has one"


def scaling(lora: LoraSettings) -> float:
    """What the adapter's output is multiplied by: alpha/r (arXiv 2106.09685), or alpha over the root of r
    with rsLoRA (arXiv 2312.03732)."""
    return lora.alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r)


METHOD = Method(
    name="adapter",
    check_on_model=_check_on_model,
    check_looks_at=("model", "adapter", "lora"),
    adapt=add_adapter,
    find_in_model=_find_in_model,
    judge=_judge,
)
