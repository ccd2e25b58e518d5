"""The model of a trial without its weights: fake tensors have a shape, a type and a device, and no memory.

torch's own `FakeTensorMode` runs every operation's shape rule and dispatches as the device would, autocast
and fused attention included. The module classes, the adapter and the quantised layers are the real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
    initialization,
    masking_utils,
)
from transformers.quantizers.auto import AutoHfQuantizer

from sweeper.contract.config import Config
from trainers.memory.remembered import RememberingFakeMode
from trainers.methods.model import configure, load_config, quantization
from trainers.methods.precision import weights_dtype

NF4_BLOCK = 64
"""Weights per scale: `blocksize` of bitsandbytes.functional.quantize_4bit (arXiv 2305.14314, section 3)."""
NF4_STATISTICS_BLOCK = 256
"""Scales per scale of the double quantisation, in the same function."""


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Every tensor made inside is fake."""
    with (
        # transformers takes a fake tensor for a compiler's, and then keeps masks that a trial leaves out
        patch.object(masking_utils, "is_tracing", lambda tensor=None: False),
        patch.object(nn.Module, "_apply", _apply),
        RememberingFakeMode(),
    ):
        yield


def _apply(module: nn.Module, convert: Any, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` for fake tensors: torch's own swaps them in place, which they do not allow."""
    for child in module.children():
        _apply(child, convert)
    for name, weight in module._parameters.items():
        if weight is None:
            continue
        with torch.no_grad():
            converted = convert(weight)
        if converted is not weight:
            module._parameters[name] = nn.Parameter(converted, requires_grad=weight.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else convert(buffer)
    return module


def fake_base(
    config: Config, model_config: PretrainedConfig | None = None, model_class: Any = None
) -> PreTrainedModel:
    """What `trainers.methods.model.load_base` returns, of fake tensors. Raises as `from_config` does.

    Must be called within `fake_tensors`. `model_class`: in place of the causal language model.
    """
    loaded = model_config or load_config(config.model)
    with unset_fake_temporarily(), torch.device("meta"), initialization.no_init_weights():
        model = _without_weights(config, loaded, model_class or _class(loaded))
        model.tie_weights()  # not done without weights to initialise
        quantizer = _replace_layers(model, config)
    _give_storage(model)
    if quantizer is not None:
        _pack(model, config)
        quantizer.postprocess_model(model)
        model.hf_quantizer = quantizer
    return configure(model.eval(), config)


def _without_weights(config: Config, model_config: PretrainedConfig, model_class: Any) -> PreTrainedModel:
    """The model class with its own attention; for FlashAttention-2 torch's fused one stands in, also in
    classes that do not support it."""

    def built(attention: str) -> PreTrainedModel:
        found: PreTrainedModel = model_class.from_config(
            model_config,
            trust_remote_code=config.model.trust_remote_code,
            dtype=weights_dtype(config),
            attn_implementation=attention,
        )
        return found

    if config.attention == "eager":
        return built("eager")
    try:
        return built("sdpa")
    except ValueError as error:
        model = built("eager")
        if config.attention == "sdpa" or not model._supports_flash_attn:
            name = type(model).__name__
            raise ValueError(
                f"{name} must support attention={config.attention}, but does not: use attention=eager"
            ) from error
    model.config._attn_implementation = "sdpa"
    return model


def _class(model_config: PretrainedConfig) -> Any:
    """Encoder-decoder models have no causal head; they can be predicted though not trained here."""
    is_causal = type(model_config) in AutoModelForCausalLM._model_mapping
    return AutoModelForCausalLM if is_causal or not model_config.is_encoder_decoder else AutoModelForSeq2SeqLM


def _replace_layers(model: PreTrainedModel, config: Config) -> Any:
    """As `from_pretrained` does it; the quantizer, or None without quantisation."""
    if config.quantization == "none":
        return None
    settings: Any = quantization(config)
    quantizer: Any = AutoHfQuantizer.from_config(settings, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map={"": "cpu"}, dtype=weights_dtype(config))
    return quantizer


def _give_storage(model: nn.Module) -> None:
    """Fake tensors in place of the meta tensors, which no meter and no autocast takes for real ones."""
    made: dict[int, torch.Tensor] = {}  # weights that layers share stay shared

    def storage(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            is_weight = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
        return made[id(tensor)]

    for module in model.modules():
        tensors: tuple[Any, ...] = (module._parameters, module._buffers)
        for own in tensors:
            names = [name for name, tensor in own.items() if tensor is not None]
            own.update({name: storage(own[name]) for name in names if not _is_packed(module, name)})


def _is_packed(module: nn.Module, name: str) -> bool:
    """Whether this is the weight of a quantised layer, which never exists unpacked as a whole model."""
    return (
        name == "weight"
        and isinstance(module, nn.Linear)
        and type(module).__module__.startswith("bitsandbytes")
    )


def _pack(model: PreTrainedModel, config: Config) -> None:
    """Give quantised layers their packed weights."""
    pack = {"nf4": _pack_nf4, "int8": _pack_int8}[config.quantization]
    for module in model.modules():
        if _is_packed(module, "weight"):
            pack(module, config)


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


def quantization_constants(model: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that belong to quantised weights and are no parameters themselves, fake or real."""
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
