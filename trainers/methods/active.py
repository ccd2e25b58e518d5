"""What was really active in a trial, found in its modules, tensors and calls rather than its options.

A figure measured under the name of a method that did not take effect would be wrong: the trial ends
with `NotActiveError` instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from sweeper.contract.config import Config
from sweeper.contract.trial import TrialResult
from trainers.methods.adapters import base_modules, is_linear, output_head, wanted_adapters
from trainers.methods.optimizers import state_dtypes, state_tensors

QUANTIZED_CLASSES = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}
"""Class of bitsandbytes that a quantised linear layer has."""
SCALING_DIGITS = 6
"""Decimal places to which the scaling of adapters is recorded."""


class NotActiveError(RuntimeError):
    """A method that was asked for did not take effect. `result` holds what was measured and found."""

    def __init__(self, reasons: list[str], result: TrialResult) -> None:
        self.reasons = reasons
        self.result = result
        super().__init__("; ".join(reasons))


class Probe:
    """Watches the first optimizer step: sizes of micro batches, recomputations, arithmetic, and whether
    the weights move."""

    def __init__(self, model: nn.Module) -> None:
        self.micro_batches: list[int] = []
        self.calls: Counter[int] = Counter()
        """Forward passes of each watched linear layer."""
        self.compute_dtypes: Counter[str] = Counter()
        self._trainable = [weight for weight in model.parameters() if weight.requires_grad]
        self._norms_before = _norms(self._trainable)
        self._handles: list[RemovableHandle] = [
            _embedding(model).register_forward_pre_hook(self._on_tokens),
            *(linear.register_forward_hook(self._on_linear) for linear in _first_linears(model)),
        ]

    def _on_tokens(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.micro_batches.append(arguments[0].shape[0])

    def _on_linear(self, module: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        self.calls[id(module)] += 1
        # a 4-bit layer computes in its own type and returns that of its input
        self.compute_dtypes[_name(getattr(module, "compute_dtype", None) or output.dtype)] += 1

    def recomputed(self) -> bool | None:
        """Whether the backward pass ran blocks again; None when no block was seen."""
        if not self.calls or not self.micro_batches:
            return None
        return max(self.calls.values()) > len(self.micro_batches)

    def weights_moved(self) -> bool:
        """Whether any trainable weight has changed since the start."""
        return _norms(self._trainable) != self._norms_before

    def close(self) -> None:
        """Stop watching the passes."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _norms(weights: list[nn.Parameter]) -> list[float]:
    norms = [torch.linalg.vector_norm(weight.detach(), dtype=torch.float32) for weight in weights]
    return [float(norm) for norm in torch.stack(norms).cpu()]


def _first_linears(model: nn.Module) -> list[nn.Module]:
    """The first linear layer of each stack of blocks, in which checkpointing works block by block."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    firsts = [next(filter(is_linear, stack.modules()), None) for stack in stacks]
    return [linear for linear in firsts if linear is not None]


def _embedding(model: nn.Module) -> nn.Module:
    found: nn.Module = _unwrapped(model).get_input_embeddings()
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def model_activity(model: nn.Module, config: Config) -> dict[str, Any]:
    """Facts about the model as it stands before training."""
    base = [(name, weight) for name, weight in model.named_parameters() if "lora_" not in name]
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    return {
        "model_class": type(_unwrapped(model)).__name__,
        "linear_classes": dict(Counter(type(m).__name__ for m in _base_linears(model).values())),
        "attention": getattr(_unwrapped(model).config, "_attn_implementation", None),
        "float32_products": torch.get_float32_matmul_precision(),
        "base_dtypes": _dtypes([weight for _, weight in base]),
        "trainable_dtypes": _dtypes(trainable),
        "base_frozen": not any(weight.requires_grad for _, weight in base),
        **_quantization_activity(model),
        **_adapter_activity(model, config),
    }


def _unwrapped(model: nn.Module) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _base_linears(model: nn.Module) -> dict[str, nn.Module]:
    """The base model's linear layers by name: those of the adapter are left out."""
    return {name: module for name, module in base_modules(_unwrapped(model)) if is_linear(module)}


def _quantization_activity(model: nn.Module) -> dict[str, Any]:
    """Nothing for a base that is not quantised; figures of 4-bit layers are empty under int8."""
    linears = _base_linears(model)
    quantized: list[Any] = [m for m in linears.values() if _is_quantized(m)]
    if not quantized:
        return {}
    states = [m.weight.quant_state for m in quantized if getattr(m.weight, "quant_state", None) is not None]
    whole = _left_whole(_unwrapped(model))
    return {
        "unquantized_linears": sorted(
            name for name, module in linears.items() if not (_is_quantized(module) or whole(name, module))
        ),
        "quantization_types": dict(Counter(state.quant_type for state in states)),
        "double_quantization": all(state.nested for state in states) if states else None,
        "quantized_compute_dtypes": dict(Counter(_name(m.compute_dtype) for m in quantized if states)),
    }


def _is_quantized(module: nn.Module) -> bool:
    return type(module).__name__ in QUANTIZED_CLASSES.values()


def _left_whole(base: PreTrainedModel) -> Callable[[str, nn.Module], bool]:
    """Whether transformers leaves a linear layer unquantised on purpose: the output head, the owner of the
    last weight, and what the model's class keeps in fp32 (`HfQuantizer.get_modules_to_not_convert`)."""
    head, kept = output_head(base), set(base._keep_in_fp32_modules or ())
    *_, last = (name for name, _ in base.named_parameters() if "lora_" not in name)
    owner = last.rpartition(".")[0].removesuffix(".base_layer")
    return lambda name, module: module is head or name == owner or not kept.isdisjoint(name.split("."))


def _dtypes(weights: list[nn.Parameter]) -> dict[str, int]:
    return dict(Counter(_name(weight.dtype) for weight in weights))


def _adapter_activity(model: nn.Module, config: Config) -> dict[str, Any]:
    adapted = {name: m for name, m in base_modules(_unwrapped(model)) if isinstance(m, LoraLayer)}
    if not adapted:
        return {"adapter_modules": 0}
    layers, wanted = list(adapted.values()), wanted_adapters(config, _unwrapped(model))
    scalings = {scaling for layer in layers for scaling in layer.scaling.values()}
    down = [weight for layer in layers for weight in _weights(layer.lora_A)]
    up = [weight for layer in layers for weight in _weights(layer.lora_B)]
    return {
        "adapter_modules": len(layers),
        "adapters_missing": sorted(wanted - adapted.keys()),
        "adapters_beyond": sorted(adapted.keys() - wanted),
        "adapter_ranks": sorted({rank for layer in layers for rank in layer.r.values()}),
        "adapter_scaling": sorted({round(scaling, SCALING_DIGITS) for scaling in scalings}),
        "dora": all(any(layer.use_dora.values()) for layer in layers),
        "lora_a_is_random": all(bool(weight.float().std() > 0) for weight in down),
        "lora_b_is_zero": all(not weight.any() for weight in up),
    }


def _weights(modules: nn.ModuleDict) -> list[nn.Parameter]:
    return [layer.weight for layer in modules.values() if isinstance(layer.weight, nn.Parameter)]


def step_activity(probe: Probe, updates: int) -> dict[str, Any]:
    """Facts that the first optimizer step showed, and whether `updates` of the weights changed them."""
    return {
        "batch_micro": max(probe.micro_batches, default=None),
        "batch_accumulation": len(probe.micro_batches) or None,
        "batch_effective": sum(probe.micro_batches) or None,
        "recomputed": probe.recomputed(),
        "compute_dtype": next(iter(probe.compute_dtypes), None),
        "compute_dtypes": dict(probe.compute_dtypes),
        "weights_moved": probe.weights_moved() if updates else None,
    }


def qualified_name(cls: type) -> str:
    """A class by the module that defines it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def optimizer_activity(optimizer: Optimizer) -> dict[str, Any]:
    """Facts about the optimizer after it took steps."""
    paged = sum(getattr(tensor, "is_paged", False) for tensor in state_tensors(optimizer))
    return {
        "optimizer_class": qualified_name(type(optimizer)),
        "optimizer_fused": bool(optimizer.defaults.get("fused")),
        "optimizer_paged": paged > 0,
        "optimizer_paged_tensors": paged,
        "optimizer_state_dtypes": state_dtypes(optimizer),
    }
