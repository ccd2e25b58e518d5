"""The attention kernel: plain, torch's scaled dot product attention, or FlashAttention-2."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from sweeper.contract.config import Config
from sweeper.contract.trial import Problem
from trainers.methods.method import Cost, Facts, Method, compare
from trainers.methods.precision import device
from trainers.model.layers import unwrap
from trainers.model.source import LOADING_ERRORS, empty_model, shorten

FLASH_HEAD_DIM = 256
"""Largest head of the flash kernel (`check_head_dim_size_flash`, in sdp_utils.cpp as below)."""


def _check_on_model(config: Config) -> Iterator[Problem]:
    if config.attention.startswith("flash_attention") and not _has_flash_attention(config):
        return  # the rules of the driver have said so
    try:
        empty_model(config.model, _implementation(config))
    except LOADING_ERRORS as error:
        yield Problem(
            f"the model's class must support the attention kernel: {shorten(error)}",
            "attention",
            config.attention,
            "set attention=auto (sdpa where the class supports it, else eager) or attention=eager",
        )


def _has_flash_attention(config: Config) -> bool:
    module = "flash_attn_interface" if config.attention == "flash_attention_3" else "flash_attn"
    return device(config).type == "cuda" and importlib.util.find_spec(module) is not None


def _find_in_model(model: nn.Module, config: Config) -> dict[str, Any]:
    return {"attention": getattr(unwrap(model).config, "_attn_implementation", None)}


def _judge(config: Config, active: Facts) -> Iterator[str]:
    found = active.get("attention")
    return compare(attention=(found, found if config.attention == "auto" else config.attention))


def _implementation(config: Config) -> str | None:
    """The kernel's name; None lets the model's class take its best."""
    return None if config.attention == "auto" else config.attention


def takes_mask(config: Config) -> bool:
    """Whether the kernel takes a mask of padding: FlashAttention takes the lengths of sequences instead."""
    return not config.attention.startswith("flash_attention")


def build_fake(config: Config, build: Callable[[str], PreTrainedModel]) -> PreTrainedModel:
    """What `build` makes of an attention's name; for FlashAttention-2 torch's fused one stands in, also in
    classes that do not support it. Raises ValueError for a class that does not support what was asked for."""
    if config.attention == "eager":
        return build("eager")
    try:
        return build("sdpa")
    except ValueError as error:
        model = build("eager")
        if config.attention == "auto":
            return model
        if config.attention == "sdpa" or not model._supports_flash_attn:
            name = type(model).__name__
            raise ValueError(
                f"{name} must support attention={config.attention}, but does not: use attention=eager"
            ) from error
    model.config._attn_implementation = "sdpa"
    return model


def _cuda_kernels() -> AbstractContextManager[Any]:
    return patch.object(functional, "scaled_dot_product_attention", cuda_attention)


def cuda_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Scaled dot product attention with the kernel that `select_sdp_backend` takes on CUDA of compute
    capability 8 (ATen/native/transformers/cuda/sdp_utils.cpp): flash, memory-efficient or plain."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    half = query.dtype in (torch.bfloat16, torch.float16)
    if half and attn_mask is None and query.shape[-1] == value.shape[-1] <= FLASH_HEAD_DIM:
        return _flash(query, key, value, dropout_p, is_causal, scale)
    if not enable_gqa:
        return _efficient(query, key, value, attn_mask, dropout_p, is_causal, scale)
    return _plain(query, key, value, attn_mask, dropout_p, is_causal, scale)


def _flash(
    query: Any, key: Any, value: Any, dropout_p: float, is_causal: bool, scale: float | None
) -> torch.Tensor:
    """Keeps query, key, value, its output and a float32 per row (arXiv 2307.08691). Heads are padded to
    a multiple of 8 before (`_scaled_dot_product_flash_attention_cuda`: `pad_last_dim<8>`)."""
    width = query.shape[-1]
    query, key, value = (_padded(tensor, 8) for tensor in (query, key, value))
    found: tuple[torch.Tensor, ...] = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, False, scale=scale or 1 / math.sqrt(width)
    )
    return found[0][..., :width]


def _efficient(
    query: Any, key: Any, value: Any, mask: Any, dropout_p: float, is_causal: bool, scale: float | None
) -> torch.Tensor:
    """Keeps query, key, value, the mask as numbers, its output and a float32 per row (arXiv 2112.05682).

    A truth mask becomes numbers of the query's type in every call (`convert_boolean_attn_mask`), in rows
    padded to a multiple of 8 (`pad_bias`, ATen/native/transformers/attention.cpp).
    """
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), -math.inf)
    if mask is not None:
        columns = mask.shape[-1]
        mask = _padded(mask, 8)[..., :columns]
        mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], columns)
    needs_rows = any(tensor.requires_grad for tensor in (query, key, value))
    found: tuple[torch.Tensor, ...] = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs_rows, dropout_p, is_causal, scale=scale
    )
    return found[0]


def _plain(
    query: Any, key: Any, value: Any, mask: Any, dropout_p: float, is_causal: bool, scale: float | None
) -> torch.Tensor:
    """Keeps a number per pair of tokens and head: no fused kernel takes grouped heads in float32."""
    found: tuple[torch.Tensor, ...] = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, mask, dropout_p, is_causal, scale=scale, enable_gqa=True
    )
    return found[0]


def _padded(tensor: torch.Tensor, multiple: int) -> torch.Tensor:
    missing = -tensor.shape[-1] % multiple
    return functional.pad(tensor, (0, missing)) if missing else tensor


METHOD = Method(
    name="attention",
    check_on_model=_check_on_model,
    check_looks_at=("model", "attention", "trial"),
    load_arguments=lambda config: {"attn_implementation": _implementation(config)},
    find_in_model=_find_in_model,
    judge=_judge,
    cost=Cost(cuda_kernels=_cuda_kernels),
)
