"""What `precision`, `model.dtype` and `trial.device` mean in torch's terms."""

from __future__ import annotations

import torch

from sweeper.contract.config import Config

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision -> type of autocast arithmetic; the others have no autocast."""


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


def mixed_precision(config: Config) -> str:
    """The same in Accelerate's terms: `no`, `fp16` or `bf16`."""
    return config.precision if config.precision in AUTOCAST else "no"


def autocast(config: Config, where: torch.device) -> torch.autocast:
    """The arithmetic of the forward pass; a context that does nothing when there is no autocast."""
    dtype = AUTOCAST.get(config.precision)
    return torch.autocast(where.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
