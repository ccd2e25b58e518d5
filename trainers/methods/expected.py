"""Whether what was found active is what was asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import Trainer

from sweeper.contract.config import Config, LoraSettings
from trainers.data.batches import batch_sizes
from trainers.methods.active import QUANTIZED_CLASSES, SCALING_DIGITS, qualified_name
from trainers.methods.optimizers import training_arguments
from trainers.methods.precision import compute_dtype, device

SHOWN = 3
"""Names that a message lists."""


def mismatches(config: Config, active: dict[str, Any]) -> list[str]:
    """Each method that was asked for and is not among what was found active.

    `active` may lack facts of steps that were never taken; those are not judged.
    """
    sizes = batch_sizes(config.batch)
    checks = [
        ("attention", active.get("attention"), config.attention),
        ("batch.micro", active.get("batch_micro"), sizes.micro),
        ("batch.accumulation", active.get("batch_accumulation"), sizes.accumulation),
        ("checkpointing", active.get("recomputed"), config.checkpointing),
        ("precision", _one(active.get("compute_dtypes")), _dtype(config)),
        ("precision", active.get("float32_products"), "high" if config.precision == "tf32" else "highest"),
        ("adapter", active.get("base_frozen"), config.adapter == "lora"),
        ("optim", active.get("optimizer_class"), _optimizer_class(config, active)),
    ]
    wrong = [
        f"`{key}` must take effect: asked for {asked!r}, found {found!r}"
        for key, found, asked in checks
        if found is not None and found != asked
    ]
    if active.get("weights_moved") is False:
        wrong.append("training must change the weights, but every trainable one is as it was at the start")
    return [*wrong, *_quantization(config, active), *_adapter(config, active), *_optimizer(config, active)]


def qualifications(config: Config, active: dict[str, Any]) -> dict[str, str]:
    """What has to be known to read figures under the names that were asked for."""
    if "paged" not in config.optim or active.get("optimizer_paged") is not False:
        return {}
    said = "is not paged here: bitsandbytes pages on CUDA only, elsewhere it is the unpaged optimizer"
    return {"optim": f"{config.optim} {said}"}


def _dtype(config: Config) -> str:
    return str(compute_dtype(config)).removeprefix("torch.")


def _one(counts: dict[str, int] | None) -> Any:
    """The only one that was counted, or all of them."""
    return next(iter(counts)) if counts and len(counts) == 1 else counts or None


def _optimizer_class(config: Config, active: dict[str, Any]) -> Any:
    """Class of the optimizer that transformers takes for the name; what was found where it cannot say
    without a model (GaLore, LOMO …)."""
    try:
        cls, _ = Trainer.get_optimizer_cls_and_kwargs(training_arguments(config, 1, Path("unused")))
    except (ImportError, ValueError):
        return active.get("optimizer_class")
    return qualified_name(cls)


def _quantization(config: Config, active: dict[str, Any]) -> list[str]:
    name, classes = f"`quantization={config.quantization}`", active.get("linear_classes", {})
    wanted = QUANTIZED_CLASSES.get(config.quantization)
    found = [cls for cls in QUANTIZED_CLASSES.values() if classes.get(cls)]
    if found != ([wanted] if wanted else []):
        return [f"{name} must take effect, but the linear layers are {classes}"]
    wrong = []
    if whole := active.get("unquantized_linears"):
        wrong.append(f"{name} must quantise every linear layer but the output head, but not {_some(whole)}")
    if config.quantization == "nf4":
        facts = {
            "type": (_one(active.get("quantization_types")), "nf4"),
            "double quantisation": (active.get("double_quantization"), True),
            "compute type": (_one(active.get("quantized_compute_dtypes")), _dtype(config)),
        }
        wrong += [
            f"{name} must have {key} {asked!r}, but has {found!r}"
            for key, (found, asked) in facts.items()
            if found != asked
        ]
    return wrong


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def _adapter(config: Config, active: dict[str, Any]) -> list[str]:
    if config.adapter == "full":
        return ["`adapter=full` must train no adapter, but has one"] if active.get("adapter_modules") else []
    facts = {
        "adapter modules": bool(active.get("adapter_modules")),
        "rank": active.get("adapter_ranks") == [config.lora.r],
        "scaling": active.get("adapter_scaling") == [round(scaling(config.lora), SCALING_DIGITS)],
        "random A": active.get("lora_a_is_random"),
        "zero B": active.get("lora_b_is_zero"),
        "lora.use_dora": active.get("dora") == config.lora.use_dora,
    }
    wrong = [
        f"`adapter=lora` must have its {name} at the start" for name, holds in facts.items() if not holds
    ]
    if missing := active.get("adapters_missing"):
        wrong.append(f"`lora.target_modules` must carry adapters, but {_some(missing)} has none")
    if beyond := active.get("adapters_beyond"):
        wrong.append(f"only `lora.target_modules` must carry adapters, but {_some(beyond)} has one")
    return wrong


def scaling(lora: LoraSettings) -> float:
    """What the adapter's output is multiplied by: alpha/r (arXiv 2106.09685), or alpha over the root of r
    with rsLoRA (arXiv 2312.03732)."""
    return lora.alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r)


def _optimizer(config: Config, active: dict[str, Any]) -> list[str]:
    if "optimizer_state_dtypes" not in active:
        return []
    wrong = []
    if "8bit" in config.optim and "uint8" not in active["optimizer_state_dtypes"]:
        wrong.append(
            f"`optim={config.optim}` must hold 8-bit state, but no tensor of its state is 8-bit "
            "(bitsandbytes keeps 32-bit state below 4096 elements): raise lora.r or take a larger model"
        )
    if "fused" in config.optim and not active["optimizer_fused"]:
        wrong.append(f"`optim={config.optim}` must be fused, but torch runs it unfused")
    # bitsandbytes pages on CUDA only; elsewhere the optimizer is the unpaged one and is recorded so
    if "paged" in config.optim and device(config).type == "cuda" and not active["optimizer_paged"]:
        wrong.append(
            f"`optim={config.optim}` must page its state, but no tensor of it is paged (bitsandbytes pages "
            "tensors of at least 100000 elements): raise lora.r, take a larger model, or the unpaged one"
        )
    return wrong
