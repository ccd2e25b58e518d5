"""What was really active in a trial, found in its modules, tensors and calls rather than its options.

A figure measured under the name of a method that did not take effect would be wrong: the trial ends
with `NotActiveError` instead.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from sweeper.contract import TrialResult
from sweeper.schema import Config
from trainers.batches import batch_sizes
from trainers.optimizers import state_dtypes, state_tensors
from trainers.precision import compute_dtype, device

QUANTIZED_CLASSES = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}
"""Class of bitsandbytes that a quantised linear layer has."""


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
    firsts = [next(filter(_is_linear, stack.modules()), None) for stack in stacks]
    return [linear for linear in firsts if linear is not None]


def _embedding(model: nn.Module) -> nn.Module:
    found: nn.Module = _unwrapped(model).get_input_embeddings()
    return found


def _is_linear(module: nn.Module) -> bool:
    """Leaf linear layers, bitsandbytes' subclasses of `nn.Linear` included."""
    return isinstance(module, nn.Linear | Conv1D)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def model_activity(model: nn.Module) -> dict[str, Any]:
    """Facts about the model as it stands before training."""
    base = [(name, weight) for name, weight in model.named_parameters() if "lora_" not in name]
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    return {
        "model_class": type(_unwrapped(model)).__name__,
        "linear_classes": dict(Counter(type(m).__name__ for m in _base_linears(model))),
        "attention": getattr(_unwrapped(model).config, "_attn_implementation", None),
        "base_dtypes": _dtypes([weight for _, weight in base]),
        "trainable_dtypes": _dtypes(trainable),
        "base_frozen": not any(weight.requires_grad for _, weight in base),
        **_adapter_activity(model),
    }


def _unwrapped(model: nn.Module) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _base_linears(model: nn.Module) -> list[nn.Module]:
    """The base model's linear layers: those of the adapter are left out."""
    return [m for name, m in model.named_modules() if _is_linear(m) and "lora_" not in name]


def _dtypes(weights: list[nn.Parameter]) -> dict[str, int]:
    return dict(Counter(_name(weight.dtype) for weight in weights))


def _adapter_activity(model: nn.Module) -> dict[str, Any]:
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers:
        return {"adapter_modules": 0}
    down = [weight for layer in layers for weight in _weights(layer.lora_A)]
    up = [weight for layer in layers for weight in _weights(layer.lora_B)]
    return {
        "adapter_modules": len(layers),
        "adapter_ranks": sorted({rank for layer in layers for rank in layer.r.values()}),
        "adapter_scaling": sorted({round(s, 6) for layer in layers for s in layer.scaling.values()}),
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
        "weights_moved": probe.weights_moved() if updates else None,
    }


def optimizer_activity(optimizer: Optimizer) -> dict[str, Any]:
    """Facts about the optimizer after it took steps."""
    return {
        "optimizer_class": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "optimizer_fused": bool(optimizer.defaults.get("fused")),
        "optimizer_paged_tensors": sum(getattr(t, "is_paged", False) for t in state_tensors(optimizer)),
        "optimizer_state_dtypes": state_dtypes(optimizer),
    }


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
        ("precision", active.get("compute_dtype"), _name(compute_dtype(config))),
        ("adapter", active.get("base_frozen"), config.adapter == "lora"),
    ]
    wrong = [
        f"`{key}` must take effect: asked for {asked!r}, found {found!r}"
        for key, found, asked in checks
        if found is not None and found != asked
    ]
    if active.get("weights_moved") is False:
        wrong.append("training must change the weights, but every trainable one is as it was at the start")
    return [*wrong, *_quantization(config, active), *_adapter(config, active), *_optimizer(config, active)]


def _quantization(config: Config, active: dict[str, Any]) -> list[str]:
    classes = active.get("linear_classes", {})
    wanted = QUANTIZED_CLASSES.get(config.quantization)
    found = [name for name in QUANTIZED_CLASSES.values() if classes.get(name)]
    if found == ([wanted] if wanted else []):
        return []
    return [f"`quantization={config.quantization}` must take effect, but the linear layers are {classes}"]


def _adapter(config: Config, active: dict[str, Any]) -> list[str]:
    if config.adapter == "full":
        return ["`adapter=full` must train no adapter, but has one"] if active.get("adapter_modules") else []
    facts = {
        "adapter modules": bool(active.get("adapter_modules")),
        "rank": active.get("adapter_ranks") == [config.lora.r],
        "random A": active.get("lora_a_is_random"),
        "zero B": active.get("lora_b_is_zero"),
        "lora.use_dora": active.get("dora") == config.lora.use_dora,
    }
    return [f"`adapter=lora` must have its {name} at the start" for name, holds in facts.items() if not holds]


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
    if "paged" in config.optim and device(config).type == "cuda" and not active["optimizer_paged_tensors"]:
        wrong.append(
            f"`optim={config.optim}` must page its state, but no tensor of it is paged (bitsandbytes pages "
            "tensors of at least 100000 elements): raise lora.r, take a larger model, or the unpaged one"
        )
    return wrong
