"""The arithmetic: what `precision`, `model.dtype` and `trial.device` mean in torch's terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional

from sweeper.contract.config import AUTOCAST, Config
from trainers.methods.method import Cost, Facts, Method, compare, get_only
from trainers.model.layers import base_weights, count_dtypes, dtype_name
from trainers.model.probe import Probe

ON_CPU = {"fp16": "bf16", "tf32": "fp32"}
"""Precision that needs CUDA -> one that takes the same bytes on a CPU."""
FLOAT32_ON_CUDA: tuple[tuple[Any, str], ...] = (
    *((functional, name) for name in ("layer_norm", "group_norm", "softmax", "log_softmax")),
    *((functional, name) for name in ("cross_entropy", "nll_loss", "mse_loss")),
    *((owner, name) for owner in (torch, torch.Tensor) for name in ("softmax", "pow", "rsqrt", "norm")),
)
"""Functions that CUDA's autocast runs in float32 and CPU's does not (ATen/autocast_mode.h,
AT_FORALL_FP32), as far as language models call them."""
HALF_PRECISION_BYTES = 60 * 2**20
"""What 16-bit products take of a CPU process besides: oneDNN's generated code and reordered copies. The least
mean error over the cells in 16 bit of `benchmarks/memory_cpu.py --shard 1/6`."""


def device(config: Config) -> torch.device:
    """The device of a trial."""
    name = config.trial.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", 0) if name == "cuda" else torch.device("cpu")


def weights_dtype(config: Config) -> torch.dtype:
    """Type in which base weights are held, those that are not quantised."""
    dtype: torch.dtype = getattr(torch, config.held_dtype)
    return dtype


def compute_dtype(config: Config) -> torch.dtype:
    """Type in which linear layers compute."""
    dtype: torch.dtype = getattr(torch, config.compute_dtype)
    return dtype


def choose_float32_products(config: Config) -> None:
    """Let float32 products round their factors to TF32, or not: torch's default differs by version."""
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")


def trains_in_float32(config: Config) -> bool:
    """Whether trained weights are held in float32 even where those of the base are not."""
    return config.precision != "bf16_pure"


def mixed_precision(config: Config) -> str:
    """The same in Accelerate's terms: `no`, `fp16` or `bf16`."""
    return config.precision if config.precision in AUTOCAST else "no"


def move_to_cpu(config: Config) -> Config:
    """The same on a CPU, with an arithmetic that takes the same bytes."""
    return dataclasses.replace(
        config,
        precision=ON_CPU.get(config.precision, config.precision),  # type: ignore[arg-type]
        trial=dataclasses.replace(config.trial, device="cpu"),
    )


def autocast(config: Config, where: torch.device) -> torch.autocast:
    """The arithmetic of the forward pass; a context that does nothing when there is no autocast."""
    is_on = config.precision in AUTOCAST
    return torch.autocast(where.type, dtype=compute_dtype(config) if is_on else torch.bfloat16, enabled=is_on)


def _training_arguments(config: Config) -> dict[str, Any]:
    return {"fp16": mixed_precision(config) == "fp16", "bf16": mixed_precision(config) == "bf16"}


def _find_in_model(model: nn.Module, config: Config) -> dict[str, Any]:
    return {
        "float32_products": torch.get_float32_matmul_precision(),
        "base_dtypes": count_dtypes(base_weights(model)),
        "trainable_dtypes": count_dtypes(weight for weight in model.parameters() if weight.requires_grad),
    }


def _find_in_step(probe: Probe) -> dict[str, Any]:
    return {
        "compute_dtype": next(iter(probe.compute_dtypes), None),
        "compute_dtypes": dict(probe.compute_dtypes),
    }


def _judge(config: Config, active: Facts) -> Iterator[str]:
    products = "high" if config.precision == "tf32" else "highest"
    yield from compare(precision=(get_only(active.get("compute_dtypes")), dtype_name(compute_dtype(config))))
    yield from compare(precision=(active.get("float32_products"), products))


@contextmanager
def _cuda_kernels() -> Iterator[None]:
    with ExitStack() as patches:
        for owner, name in FLOAT32_ON_CUDA:
            patches.enter_context(patch.object(owner, name, _in_float32(getattr(owner, name))))
        yield


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            args = tuple(_float32(item) for item in args)
        return function(*args, **kwargs)

    return call


def _float32(item: Any) -> Any:
    is_half = isinstance(item, torch.Tensor) and item.dtype in (torch.bfloat16, torch.float16)
    return item.float() if is_half else item


def _resident_bytes(config: Config, model: nn.Module) -> int:
    return HALF_PRECISION_BYTES if config.compute_dtype != "float32" else 0


METHOD = Method(
    name="precision",
    load_arguments=lambda config: {"dtype": weights_dtype(config)},
    training_arguments=_training_arguments,
    find_in_model=_find_in_model,
    find_in_step=_find_in_step,
    judge=_judge,
    cost=Cost(cuda_kernels=_cuda_kernels, resident_bytes=_resident_bytes),
)
