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

from sweeper.contract.config import Config
from trainers.methods.method import Cost, Facts, Method, compare, get_only
from trainers.model.layers import base_weights, count_dtypes, dtype_name
from trainers.model.probe import Probe

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision -> type of autocast arithmetic; the others have no autocast."""
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
    if config.precision == "bf16_pure":
        return torch.bfloat16
    dtype: torch.dtype = getattr(torch, "float32" if config.model.dtype == "auto" else config.model.dtype)
    return dtype


def compute_dtype(config: Config) -> torch.dtype:
    """Type in which linear layers compute."""
    return AUTOCAST.get(config.precision, weights_dtype(config))


def trains_in_float32(config: Config) -> bool:
    """Whether trained weights are held in float32 even where those of the base are not."""
    return config.precision != "bf16_pure"


def mixed_precision(config: Config) -> str:
    """The same in Accelerate's terms: `no`, `fp16` or `bf16`."""
    return config.precision if config.precision in AUTOCAST else "no"


def move_to_cpu(config: Config) -> Config:
    """The same on a CPU, with an arithmetic that takes the same bytes: fp16 needs CUDA."""
    return dataclasses.replace(
        config,
        precision="bf16" if config.precision == "fp16" else config.precision,
        trial=dataclasses.replace(config.trial, device="cpu"),
    )


def autocast(config: Config, where: torch.device) -> torch.autocast:
    """The arithmetic of the forward pass; a context that does nothing when there is no autocast."""
    dtype = AUTOCAST.get(config.precision)
    return torch.autocast(where.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _training_arguments(config: Config) -> dict[str, Any]:
    return {"fp16": mixed_precision(config) == "fp16", "bf16": mixed_precision(config) == "bf16"}


def _find_in_model(model: nn.Module, config: Config) -> dict[str, Any]:
    return {
        "base_dtypes": count_dtypes(base_weights(model)),
        "trainable_dtypes": count_dtypes(weight for weight in model.parameters() if weight.requires_grad),
    }


def _find_in_step(probe: Probe) -> dict[str, Any]:
    return {
        "compute_dtype": next(iter(probe.compute_dtypes), None),
        "compute_dtypes": dict(probe.compute_dtypes),
    }


def _judge(config: Config, active: Facts) -> Iterator[str]:
    return compare(precision=(get_only(active.get("compute_dtypes")), dtype_name(compute_dtype(config))))


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
    return HALF_PRECISION_BYTES if config.precision != "fp32" else 0


METHOD = Method(
    name="precision",
    load_arguments=lambda config: {"dtype": weights_dtype(config)},
    training_arguments=_training_arguments,
    find_in_model=_find_in_model,
    find_in_step=_find_in_step,
    judge=_judge,
    cost=Cost(cuda_kernels=_cuda_kernels, resident_bytes=_resident_bytes),
)
