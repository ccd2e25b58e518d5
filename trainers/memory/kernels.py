"""What kernels keep and need, where fake tensors do not show it.

A dry run always runs on fake CPU tensors; `cuda_kernels` makes it take CUDA's paths. What is not shown by
shapes alone is told by `replies` (values that code asks for) and `inner_bytes` (memory inside of one
operation). Line references are to torch 2.13 and bitsandbytes 0.50.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional

NO_VALUE = 1.0
"""What a fake tensor's value is when code asks for it: a loss, a norm, a count."""
GEMM_4BIT_LARGEST_FUSED = 1536
"""Rows up to which the CUDA kernel reads packed weights itself; above it they are dequantised first
(`_gemm_4bit_custom_max_m`, bitsandbytes/backends/cuda/ops.py)."""
FLASH_HEAD_DIM = 256
"""Largest head of the flash kernel (`check_head_dim_size_flash`, in sdp_utils.cpp as below)."""


def replies(is_padded: Callable[[], bool]) -> dict[Any, Callable[..., Any]]:
    """Answers to what code asks of fake tensors. The only truth value that matters is whether the
    attention mask is all ones."""

    def value(tensor: torch.Tensor) -> Any:
        if tensor.dtype == torch.bool:
            return not is_padded()
        return NO_VALUE if tensor.is_floating_point() else int(NO_VALUE)

    bnb = torch.ops.bitsandbytes
    return {
        torch.ops.aten._local_scalar_dense.default: value,
        # asked for at every step of every operation: answered without a trip through torch
        torch.ops.prim.device.default: lambda tensor: getattr(tensor, "fake_device", tensor.device),
        bnb.int8_vectorwise_quant.default: _int8_quantised,
        bnb.int8_mixed_scaled_mm.default: _int8_product,
    }


def _int8_quantised(tensor: torch.Tensor, threshold: float = 0.0) -> tuple[Any, ...]:
    """No column with outliers: how many there are depends on the values."""
    rows = torch.empty(tensor.numel() // tensor.shape[-1], dtype=torch.float32)
    columns = torch.empty(0, dtype=torch.int64) if threshold else None
    return torch.empty(tensor.shape, dtype=torch.int8), rows, columns


def _int8_product(
    left: torch.Tensor, quantised: torch.Tensor, weights: torch.Tensor, *_: Any
) -> tuple[Any, ...]:
    product = torch.empty((*quantised.shape[:-1], weights.shape[0]), dtype=left.dtype)
    return product, torch.empty(0, dtype=left.dtype)


def inner_bytes(on_cuda: bool) -> Callable[[Any, tuple[Any, ...]], int]:
    """Memory that an operation takes and gives back while it runs, besides its result."""
    bnb = torch.ops.bitsandbytes
    known: dict[Any, Callable[..., int]] = {
        bnb.gemm_4bit.default: _dequantised_on_cuda if on_cuda else _dequantised,
    }
    if not on_cuda:
        known[bnb.optimizer_update_8bit_blockwise.default] = _update_8bit
        known[bnb.optimizer_update_32bit.default] = _update_32bit
        known[bnb.int8_mixed_scaled_mm.default] = _int8_product_bytes

    def of(func: Any, args: tuple[Any, ...]) -> int:
        found = known.get(func)
        return found(*args) if found else 0

    return of


def _dequantised(left: torch.Tensor, packed: torch.Tensor, shape: Any, *_: Any) -> int:
    """The weight in the input's type (`_gemm_4bit_default_impl`, `_dequant_linear_fallback`), and its
    scales in float32."""
    elements: int = math.prod(shape)
    return elements * left.element_size() + elements // 64 * 4


def _dequantised_on_cuda(left: torch.Tensor, packed: torch.Tensor, shape: Any, *rest: Any) -> int:
    rows = left.numel() // left.shape[-1]
    return _dequantised(left, packed, shape) if rows > GEMM_4BIT_LARGEST_FUSED else 0


def _update_8bit(name: str, gradient: torch.Tensor, weight: torch.Tensor, *rest: Any) -> int:
    """Both moments, gradient, weight, and a denominator or a quantised copy, in float32
    (`_optimizer_update_8bit_blockwise_cpu`, bitsandbytes/backends/cpu/ops.py)."""
    moments = 1 if rest[1] is None else 2
    copied = sum(tensor.dtype != torch.float32 for tensor in (gradient, weight))
    return weight.numel() * 4 * (moments + 2 + copied)


def _update_32bit(name: str, gradient: torch.Tensor, weight: torch.Tensor, *rest: Any) -> int:
    """Gradient and weight in float32, and the denominator (`_optimizer_update_32bit_cpu`, same file)."""
    return weight.numel() * 4 * 3


def _int8_product_bytes(left: torch.Tensor, quantised: torch.Tensor, weights: torch.Tensor, *_: Any) -> int:
    """Both factors and the product in float32, the product in int32 (`_int8_linear_matmul_impl`)."""
    product = quantised.numel() // quantised.shape[-1] * weights.shape[0]
    return 4 * (quantised.numel() + weights.numel() + 2 * product)


@contextmanager
def cuda_kernels() -> Iterator[None]:
    """Inside, fake CPU tensors take the paths of CUDA tensors."""
    import bitsandbytes
    from bitsandbytes.autograd._functions import MatMul8bitLt

    def matmul(
        left: Any, right: Any, out: Any = None, state: Any = None, threshold: float = 0.0, bias: Any = None
    ) -> Any:
        return MatMul8bitLt.apply(left, right, out, bias, state)  # on CPU training takes MatMul8bitFp

    with ExitStack() as patches:
        patches.enter_context(patch.object(bitsandbytes, "matmul", matmul))
        patches.enter_context(patch.object(functional, "scaled_dot_product_attention", cuda_attention))
        for owner, name in FLOAT32_ON_CUDA:
            patches.enter_context(patch.object(owner, name, _in_float32(getattr(owner, name))))
        yield


FLOAT32_ON_CUDA: tuple[tuple[Any, str], ...] = (
    *((functional, name) for name in ("layer_norm", "group_norm", "softmax", "log_softmax")),
    *((functional, name) for name in ("cross_entropy", "nll_loss", "mse_loss")),
    *((owner, name) for owner in (torch, torch.Tensor) for name in ("softmax", "pow", "rsqrt", "norm")),
)
"""Functions that CUDA's autocast runs in float32 and CPU's does not (ATen/autocast_mode.h,
AT_FORALL_FP32), as far as language models call them."""


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            args = tuple(_float32(item) for item in args)
        return function(*args, **kwargs)

    return call


def _float32(item: Any) -> Any:
    is_half = isinstance(item, torch.Tensor) and item.dtype in (torch.bfloat16, torch.float16)
    return item.float() if is_half else item


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
