"""What the first optimizer step shows of a model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from trainers.model.layers import dtype_name, is_linear, unwrap


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
        self.compute_dtypes[dtype_name(getattr(module, "compute_dtype", None) or output.dtype)] += 1

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
    found: nn.Module = unwrap(model).get_input_embeddings()
    return found
