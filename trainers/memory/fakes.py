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

from sweeper.contract.config import Config
from trainers.memory.remembered import RememberingFakeMode
from trainers.methods.attention import build_fake
from trainers.methods.precision import weights_dtype
from trainers.methods.quantization import held_quantization, replace_layers
from trainers.methods.quantization_cost import is_packed, pack
from trainers.model.source import load_config
from trainers.setup import configure


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
    """What `trainers.setup.load_base` returns, of fake tensors. Raises as `from_config` does.

    Must be called within `fake_tensors`. `model_class`: in place of the causal language model.
    """
    loaded = model_config or load_config(config.model)
    with unset_fake_temporarily(), torch.device("meta"), initialization.no_init_weights():
        model = _without_weights(config, loaded, model_class or _class(loaded))
        model.tie_weights()  # not done without weights to initialise
        quantizer = replace_layers(model, config, loaded)
    _give_storage(model)
    if quantizer is not None:
        pack(model, config, held_quantization(config, loaded))
        quantizer.postprocess_model(model)
        model.hf_quantizer = quantizer
    return configure(model.eval(), config)


def _without_weights(config: Config, model_config: PretrainedConfig, model_class: Any) -> PreTrainedModel:
    """The model class with its own attention."""

    def build(attention: str) -> PreTrainedModel:
        found: PreTrainedModel = model_class.from_config(
            model_config,
            trust_remote_code=config.model.trust_remote_code,
            dtype=weights_dtype(config),
            attn_implementation=attention,
        )
        return found

    return build_fake(config, build)


def _class(model_config: PretrainedConfig) -> Any:
    """Encoder-decoder models have no causal head; they can be predicted though not trained here."""
    is_causal = type(model_config) in AutoModelForCausalLM._model_mapping
    return AutoModelForCausalLM if is_causal or not model_config.is_encoder_decoder else AutoModelForSeq2SeqLM


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
            own.update({name: storage(own[name]) for name in names if not is_packed(module, name)})
