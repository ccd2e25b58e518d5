"""What bitsandbytes' layers store, and what their kernels keep and need. Line references are to 0.50."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import PreTrainedModel

from sweeper.contract.config import Config
from trainers.meters.readers import KEPT_TOP_BYTES
from trainers.methods.method import Cost
from trainers.methods.precision import weights_dtype
from trainers.model.layers import logical_elements

NF4_BLOCK = 64
"""Weights per scale: `blocksize` of bitsandbytes.functional.quantize_4bit (arXiv 2305.14314, section 3)."""
NF4_STATISTICS_BLOCK = 256
"""Scales per scale of the double quantisation, in the same function."""
GEMM_4BIT_LARGEST_FUSED = 1536
"""Rows up to which the CUDA kernel reads packed weights itself; above it they are dequantised first
(`_gemm_4bit_custom_max_m`, bitsandbytes/backends/cuda/ops.py)."""
QUANTISING_BLOCKS = 12
"""What malloc keeps of the unpacked weights that pass through while a quantised model is loaded, in times
of the largest of them in float32, up to the most that it keeps. The least mean error over
`benchmarks/memory_cpu.py --shape 30m --fp32` (30 cells)."""


def is_packed(module: nn.Module, name: str) -> bool:
    """Whether this is the weight of a quantised layer, which never exists unpacked as a whole model."""
    return (
        name == "weight"
        and isinstance(module, nn.Linear)
        and type(module).__module__.startswith("bitsandbytes")
    )


def pack(model: PreTrainedModel, config: Config, held: str) -> None:
    """Give quantised layers without weights their packed ones."""
    pack_layer = _pack_int8 if held == "int8" else _pack_nf4
    for module in model.modules():
        if is_packed(module, "weight"):
            pack_layer(module, config)


def _frozen(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _pack_nf4(module: Any, config: Config) -> None:
    """Two weights to a byte, an 8-bit scale per block, and a float32 scale per 256 of those."""
    from bitsandbytes.functional import QuantState

    shape = torch.Size((module.out_features, module.in_features))
    blocks = -(-shape.numel() // NF4_BLOCK)
    statistics = QuantState(
        absmax=torch.empty(-(-blocks // NF4_STATISTICS_BLOCK)),
        code=torch.empty(256),
        blocksize=NF4_STATISTICS_BLOCK,
        dtype=torch.float32,
    )
    state = QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8),
        shape=shape,
        code=torch.empty(16),
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=weights_dtype(config),
        offset=torch.empty(()),
        state2=statistics,
    )
    packed = _frozen(torch.empty(((shape.numel() + 1) // 2, 1), dtype=torch.uint8))
    packed.quant_state = module.quant_state = state  # type: ignore[attr-defined]
    for name, value in {"compress_statistics": True, "quant_type": "nf4", "bnb_quantized": True}.items():
        setattr(packed, name, value)
    module.weight = packed


def _pack_int8(module: Any, config: Config) -> None:
    """A byte per weight and a float32 scale per row (arXiv 2208.07339)."""
    weight = _frozen(torch.empty((module.out_features, module.in_features), dtype=torch.int8))
    weight.CB, weight.SCB = weight.data, torch.empty(module.out_features)  # type: ignore[attr-defined]
    weight.has_fp16_weights = False  # type: ignore[attr-defined]
    module.weight = weight


def _constants(model: nn.Module) -> Iterator[torch.Tensor]:
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            nested = state.state2
            yield from (
                state.absmax,
                state.code,
                *((nested.absmax, nested.code, state.offset) if nested else ()),
            )
        scales = getattr(module, "state", None)
        for tensor in (getattr(scales, "SCB", None), getattr(getattr(module, "weight", None), "SCB", None)):
            if isinstance(tensor, torch.Tensor):
                yield tensor


def _replies() -> Mapping[Any, Callable[..., Any]]:
    bnb = torch.ops.bitsandbytes
    return {
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


def _inner_bytes(on_cuda: bool) -> Mapping[Any, Callable[..., int]]:
    bnb = torch.ops.bitsandbytes
    if on_cuda:
        return {bnb.gemm_4bit.default: _dequantised_on_cuda}
    return {bnb.gemm_4bit.default: _dequantised, bnb.int8_mixed_scaled_mm.default: _int8_product_bytes}


def _dequantised(left: torch.Tensor, packed: torch.Tensor, shape: Any, *_: Any) -> int:
    """The weight in the input's type (`_gemm_4bit_default_impl`, `_dequant_linear_fallback`), and its
    scales in float32."""
    elements: int = math.prod(shape)
    return elements * left.element_size() + elements // NF4_BLOCK * 4


def _dequantised_on_cuda(left: torch.Tensor, packed: torch.Tensor, shape: Any, *rest: Any) -> int:
    rows = left.numel() // left.shape[-1]
    return _dequantised(left, packed, shape) if rows > GEMM_4BIT_LARGEST_FUSED else 0


def _int8_product_bytes(left: torch.Tensor, quantised: torch.Tensor, weights: torch.Tensor, *_: Any) -> int:
    """Both factors and the product in float32, the product in int32 (`_int8_linear_matmul_impl`)."""
    product = quantised.numel() // quantised.shape[-1] * weights.shape[0]
    return 4 * (quantised.numel() + weights.numel() + 2 * product)


@contextmanager
def _cuda_kernels() -> Iterator[None]:
    import bitsandbytes
    from bitsandbytes.autograd._functions import MatMul8bitLt

    def matmul(
        left: Any, right: Any, out: Any = None, state: Any = None, threshold: float = 0.0, bias: Any = None
    ) -> Any:
        return MatMul8bitLt.apply(left, right, out, bias, state)  # on CPU training takes MatMul8bitFp

    with patch.object(bitsandbytes, "matmul", matmul):
        yield


def _resident_bytes(config: Config, model: nn.Module) -> int:
    packed = [weight for weight in model.parameters() if not weight.dtype.is_floating_point]
    unpacked_bytes = QUANTISING_BLOCKS * 4 * max(map(logical_elements, packed), default=0)
    return min(unpacked_bytes, KEPT_TOP_BYTES)


COST = Cost(
    replies=_replies,
    inner_bytes=_inner_bytes,
    cuda_kernels=_cuda_kernels,
    constants=_constants,
    resident_bytes=_resident_bytes,
)
