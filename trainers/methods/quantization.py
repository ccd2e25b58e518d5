"""A quantised base: LLM.int8() (arXiv 2208.07339), or NF4 with double quantisation (arXiv 2305.14314)."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer

from sweeper.contract.config import Config
from sweeper.contract.trial import Problem
from trainers.methods.method import Facts, Method, get_only, shorten_list
from trainers.methods.precision import compute_dtype, device, weights_dtype
from trainers.methods.quantization_cost import COST
from trainers.model.layers import base_linears, dtype_name, output_head, unwrap

CLASSES = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}
"""Class of bitsandbytes that a quantised linear layer has."""


def settings(config: Config) -> BitsAndBytesConfig | None:
    """What transformers is asked for; None leaves the base as it is."""
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if config.quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype(config),
        )
    return None


def replace_layers(model: PreTrainedModel, config: Config) -> Any:
    """Do what `from_pretrained` does to a model without weights; the quantizer, or None without one."""
    asked: Any = settings(config)
    if asked is None:
        return None
    quantizer: Any = AutoHfQuantizer.from_config(asked, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map={"": "cpu"}, dtype=weights_dtype(config))
    return quantizer


def _check(config: Config) -> Iterator[Problem]:
    if config.quantization == "none":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        rule, remedy = "quantization needs the package bitsandbytes", "install bitsandbytes"
    elif config.quantization == "int8" and config.lora.use_dora and device(config).type == "cpu":
        # peft's reading of int8 weights on CPU drops their scales (peft 0.21, bitsandbytes 0.50)
        rule, remedy = (
            "lora.use_dora on int8 weights needs CUDA",
            "use quantization=nf4 or lora.use_dora=false",
        )
    else:
        return
    yield Problem(rule, "quantization", config.quantization, remedy)


def _set_up(base: PreTrainedModel, config: Config) -> None:
    """Keep bitsandbytes' 4-bit layers as they were asked for; their first use may change them."""
    if config.quantization != "nf4":
        return
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]

    for module in base.modules():
        if isinstance(module, Linear4bit):
            # else the compute type follows the input: float32 after a norm, whatever autocast says
            module.compute_type_is_set = True
            # else an evaluation on a CPU with AVX512-BF16 repacks the weights into an inference format
            # through which no gradient flows, and training goes on without learning
            module.support_avx512bf16_for_cpu = False


def _find_in_model(model: nn.Module, config: Config) -> dict[str, Any]:
    """Only classes for a base that is not quantised; figures of 4-bit layers are empty under int8."""
    linears = base_linears(model)
    facts: dict[str, Any] = {"linear_classes": dict(Counter(type(m).__name__ for m in linears.values()))}
    quantized: list[Any] = [m for m in linears.values() if _is_quantized(m)]
    if not quantized:
        return facts
    states = [m.weight.quant_state for m in quantized if getattr(m.weight, "quant_state", None) is not None]
    whole = _left_whole(unwrap(model))
    return facts | {
        "unquantized_linears": sorted(
            name for name, module in linears.items() if not (_is_quantized(module) or whole(name, module))
        ),
        "quantization_types": dict(Counter(state.quant_type for state in states)),
        "double_quantization": all(state.nested for state in states) if states else None,
        "quantized_compute_dtypes": dict(Counter(dtype_name(m.compute_dtype) for m in quantized if states)),
    }


def _is_quantized(module: nn.Module) -> bool:
    return type(module).__name__ in CLASSES.values()


def _left_whole(base: PreTrainedModel) -> Callable[[str, nn.Module], bool]:
    """Whether transformers leaves a linear layer unquantised on purpose: the output head, the owner of the
    last weight, and what the model's class keeps in fp32 (`HfQuantizer.get_modules_to_not_convert`)."""
    head, kept = output_head(base), set(base._keep_in_fp32_modules or ())
    *_, last = (name for name, _ in base.named_parameters() if "lora_" not in name)
    owner = last.rpartition(".")[0].removesuffix(".base_layer")
    return lambda name, module: module is head or name == owner or not kept.isdisjoint(name.split("."))


def _judge(config: Config, active: Facts) -> Iterator[str]:
    name, classes = f"`quantization={config.quantization}`", active.get("linear_classes", {})
    wanted = CLASSES.get(config.quantization)
    found = [cls for cls in CLASSES.values() if classes.get(cls)]
    if found != ([wanted] if wanted else []):
        yield f"{name} must take effect, but the linear layers are {classes}"
        return
    if whole := active.get("unquantized_linears"):
        yield f"{name} must quantise every linear layer but the output head, but not {shorten_list(whole)}"
    if config.quantization == "nf4":
        facts = {
            "type": (get_only(active.get("quantization_types")), "nf4"),
            "double quantisation": (active.get("double_quantization"), True),
            "compute type": (
                get_only(active.get("quantized_compute_dtypes")),
                dtype_name(compute_dtype(config)),
            ),
        }
        for key, (is_so, asked) in facts.items():
            if is_so != asked:
                yield f"{name} must have {key} {asked!r}, but has {is_so!r}"


METHOD = Method(
    name="quantization",
    check=_check,
    load_arguments=lambda config: {"quantization_config": settings(config)},
    set_up=_set_up,
    find_in_model=_find_in_model,
    judge=_judge,
    cost=COST,
)
