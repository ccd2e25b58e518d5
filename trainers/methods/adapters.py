"""The LoRA adapter on a base model, through PEFT, or the base model itself for a full fine-tune."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sweeper.contract.config import Config
from trainers.methods.model import empty_model, load_config

QUERY_VALUE_NAMES = (("q_proj", "v_proj"), ("query", "value"), ("q", "v"), ("q_lin", "v_lin"))
"""Names of query and value projections in architectures that PEFT's mapping lacks."""
FUSED_NAMES = ("qkv_proj", "query_key_value", "Wqkv", "c_attn", "qkv")
"""Names of projections that hold query, key and value together."""
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
    pure = config.precision == "bf16_pure"
    model = get_peft_model(base, settings, autocast_adapter_dtype=not pure)
    if pure:
        _hold_adapter_in(model, torch.bfloat16)
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


def linear_names(model: nn.Module) -> set[str]:
    """Last parts of the names of all linear layers."""
    return {name.split(".")[-1] for name, module in base_modules(model) if is_linear(module)}


def base_modules(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of a base model by the names that they have without an adapter; an adapted layer comes as
    PEFT's layer and as its own."""
    for name, module in base.named_modules():
        if "lora_" not in name:
            yield name.removesuffix(".base_layer"), module


def is_linear(module: nn.Module) -> bool:
    """Leaf linear layers, bitsandbytes' subclasses of `nn.Linear` included."""
    return isinstance(module, nn.Linear | Conv1D)


def output_head(base: PreTrainedModel) -> nn.Module | None:
    """The layer that makes logits, without its adapter."""
    head = base.get_output_embeddings()
    found: nn.Module | None = getattr(head, "base_layer", head)
    return found


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
