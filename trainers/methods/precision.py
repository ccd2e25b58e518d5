"""What `precision`, `model.dtype` and `trial.device` mean in torch's terms."""

from __future__ import annotations

import torch

from sweeper.contract.config import AUTOCAST, Config


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


def mixed_precision(config: Config) -> str:
    """The same in Accelerate's terms: `no`, `fp16` or `bf16`."""
    return config.precision if config.precision in AUTOCAST else "no"


def autocast(config: Config, where: torch.device) -> torch.autocast:
    """The arithmetic of the forward pass; a context that does nothing when there is no autocast."""
    is_on = config.precision in AUTOCAST
    return torch.autocast(where.type, dtype=compute_dtype(config) if is_on else torch.bfloat16, enabled=is_on)
