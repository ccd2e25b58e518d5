"""The layers and weights of a model, with or without an adapter, quantised or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def unwrap(model: nn.Module) -> Any:
    """The base model, without the adapter around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def has_adapter(model: nn.Module) -> bool:
    """Whether PEFT has put an adapter on it."""
    return hasattr(model, "peft_config")


def base_modules(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of a base model by the names that they have without an adapter; an adapted layer comes as
    PEFT's layer and as its own."""
    for name, module in base.named_modules():
        if "lora_" not in name:
            yield name.removesuffix(".base_layer"), module


def base_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights without those of an adapter."""
    return [weight for name, weight in model.named_parameters() if "lora_" not in name]


def base_linears(model: nn.Module) -> dict[str, nn.Module]:
    """The base model's linear layers by name: those of the adapter are left out."""
    return {name: module for name, module in base_modules(unwrap(model)) if is_linear(module)}


def is_linear(module: nn.Module) -> bool:
    """Leaf linear layers, bitsandbytes' subclasses of `nn.Linear` included."""
    return isinstance(module, nn.Linear | Conv1D)


def linear_names(model: nn.Module) -> set[str]:
    """Last parts of the names of all linear layers."""
    return {name.split(".")[-1] for name, module in base_modules(model) if is_linear(module)}


def output_head(base: PreTrainedModel) -> nn.Module | None:
    """The layer that makes logits, without its adapter."""
    head = base.get_output_embeddings()
    found: nn.Module | None = getattr(head, "base_layer", head)
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """A type without its module: `float32`."""
    return str(dtype).removeprefix("torch.")


def count_dtypes(tensors: Iterable[torch.Tensor]) -> dict[str, int]:
    """Number of tensors of each type."""
    return dict(Counter(dtype_name(tensor.dtype) for tensor in tensors))


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trainable and total parameters; a packed 4-bit weight counts each of its logical elements."""
    sizes = [(logical_elements(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)


def logical_elements(parameter: torch.Tensor) -> int:
    """Elements of a weight; those that a packed one stands for."""
    packed = getattr(parameter, "quant_state", None)
    return int(packed.shape.numel()) if packed is not None else parameter.numel()
