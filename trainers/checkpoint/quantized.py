"""The quantisation that a checkpoint brings with it, as its configuration tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from sweeper.contract.trial import Problem

BITSANDBYTES = "bitsandbytes"
"""The `quant_method` through whose weights a LoRA adapter is trained here; the others are refused."""
BITSANDBYTES_KINDS = ("int8", "nf4", "fp4")


def read_quantization(model_config: PretrainedConfig) -> dict[str, Any] | None:
    """The settings with which the checkpoint was quantised; None for one that is not quantised."""
    for holder in (model_config, model_config.get_text_config()):
        settings = getattr(holder, "quantization_config", None)
        if settings is not None:
            return dict(settings) if isinstance(settings, Mapping) else dict(settings.to_dict())
    return None


def name_quantization(settings: Mapping[str, Any]) -> str:
    """The kind of quantisation in the words of `quantization`, else the checkpoint's own name for it."""
    method = settings.get("quant_method")
    method = str(getattr(method, "value", method or BITSANDBYTES))
    if method != BITSANDBYTES:
        return method
    return "int8" if settings.get("load_in_8bit") else str(settings.get("bnb_4bit_quant_type", "fp4"))


def find_storage_problems(path: str, model_config: PretrainedConfig) -> list[Problem]:
    """Whether a quantised checkpoint is of a kind that can be trained on as it stands."""
    settings = read_quantization(model_config)
    if settings is None or (name := name_quantization(settings)) in BITSANDBYTES_KINDS:
        return []
    kinds = ", ".join(BITSANDBYTES_KINDS)
    rule = f"a quantised checkpoint must be in bitsandbytes' format ({kinds}), but this one is {name}"
    remedy = "give the model that it was made from, and quantise that with quantization=int8 or nf4"
    return [Problem(rule, "model.path", path, remedy)]
