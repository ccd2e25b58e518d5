"""A quantised base: LLM.int8() (arXiv 2208.07339), or NF4 with double quantisation (arXiv 2305.14314)."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer

from sweeper.contract.config import Config
from sweeper.contract.trial import Problem
from trainers.checkpoint.quantized import name_quantization, read_quantization
from trainers.methods.method import Facts, Method, get_only, shorten_list
from trainers.methods.precision import compute_dtype, device, weights_dtype
from trainers.methods.quantization_cost import COST
from trainers.model.layers import base_linears, dtype_name, output_head, unwrap
from trainers.model.source import load_config

CLASSES = {"int8": "Linear8bitLt", "nf4": "Linear4bit", "fp4": "Linear4bit"}
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


def replace_layers(model: PreTrainedModel, config: Config, model_config: PretrainedConfig) -> Any:
    """Do what `from_pretrained` does to a model without weights; the quantizer, or None without one."""
    stored = read_quantization(model_config)
    asked: Any = BitsAndBytesConfig.from_dict(stored) if stored else settings(config)
    if asked is None:
        return None
    quantizer: Any = AutoHfQuantizer.from_config(asked, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map={"": "cpu"}, dtype=weights_dtype(config))
    return quantizer


def held_quantization(config: Config, model_config: PretrainedConfig) -> str:
    """How the base lies in memory: as the configuration asks, else as the checkpoint is stored."""
    settings = read_quantization(model_config)
    return name_quantization(settings) if settings is not None else config.quantization


def _check_on_model(config: Config) -> Iterator[Problem]:
    """Whether what is asked of the base agrees with how the checkpoint is stored, and can run here."""
    model_config = load_config(config.model)
    held = held_quantization(config, model_config)
    if read_quantization(model_config) is not None:
        stored = f"{config.model.path} is stored in {held}"
        if config.quantization != "none":
            rule = f"a checkpoint that is already quantised must be taken as it stands: {stored}"
            yield Problem(rule, "quantization", config.quantization, "use quantization=none")
        if config.adapter == "full":
            rule = f"a quantised base cannot be trained itself: {stored}"
            remedy = "use adapter=lora, or an unquantised checkpoint"
            yield Problem(rule, "adapter", config.adapter, remedy)
    if held != "none" and importlib.util.find_spec("bitsandbytes") is None:
        rule = "quantization needs the package bitsandbytes"
        yield Problem(rule, "quantization", held, "install bitsandbytes")
    elif held == "int8" and config.lora.use_dora and device(config).type == "cpu":
        # peft's reading of int8 weights on CPU drops their scales (peft 0.21, bitsandbytes 0.50)
        rule, remedy = (
            "lora.use_dora on int8 weights needs CUDA",
            "use quantization=nf4 or lora.use_dora=false",
        )
        yield Problem(rule, "quantization", held, remedy)


def _set_up(base: PreTrainedModel, config: Config) -> None:
    """Keep bitsandbytes' 4-bit layers as they were asked for, whatever type a quantised checkpoint was made
    to compute in; their first use may change them."""
    if held_quantization(config, base.config) not in ("nf4", "fp4"):
        return
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]

    for module in base.modules():
        if isinstance(module, Linear4bit):
            # else the compute type follows the input: float32 after a norm, whatever autocast says
            module.compute_type_is_set, module.compute_dtype = True, compute_dtype(config)
            # else an evaluation on a CPU with AVX512-BF16 repacks the weights into an inference format
            # through which no gradient flows, and training goes on without learning
            module.support_avx512bf16_for_cpu = False


def _find_in_model(model: nn.Module, config: Config) -> dict[str, Any]:
    """Only classes for a base that is not quantised; figures of 4-bit layers are empty under int8."""
    linears = base_linears(model)
    facts: dict[str, Any] = {
        "base_quantization": held_quantization(config, unwrap(model).config),
        "linear_classes": dict(Counter(type(m).__name__ for m in linears.values())),
    }
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
    wanted = CLASSES.get(active.get("base_quantization", config.quantization))
    found = {cls for cls in CLASSES.values() if classes.get(cls)}
    if found != ({wanted} if wanted else set()):
        yield f"{name} must take effect, but the linear layers are {classes}"
        return
    if config.quantization != "none" and (whole := active.get("unquantized_linears")):
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


def _qualify(config: Config, active: Facts) -> dict[str, str]:
    stored = active.get("base_quantization", config.quantization)
    if stored == config.quantization:
        return {}
    return {"quantization": f"the checkpoint is stored in {stored} and was taken as it stands"}


def _get_load_arguments(config: Config) -> dict[str, Any]:
    asked = settings(config)
    return {"quantization_config": asked} if asked else {}  # None would erase the checkpoint's own


METHOD = Method(
    name="quantization",
    check_on_model=_check_on_model,
    check_looks_at=("model", "quantization", "adapter", "lora", "trial"),
    load_arguments=_get_load_arguments,
    set_up=_set_up,
    find_in_model=_find_in_model,
    judge=_judge,
    qualify=_qualify,
    cost=COST,
)
