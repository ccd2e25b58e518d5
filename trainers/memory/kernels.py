"""What runs otherwise on fake tensors than their shapes tell: gathered from the methods.

A dry run always runs on fake CPU tensors; `cuda_kernels` makes it take CUDA's paths. What is not shown by
shapes alone is told by `replies` (values that code asks for) and `inner_bytes` (memory inside of one
operation). Line references of the methods are to torch 2.13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from trainers.methods import METHODS

NO_VALUE = 1.0
"""What a fake tensor's value is when code asks for it: a loss, a norm, a count."""


def replies(is_padded: Callable[[], bool]) -> dict[Any, Callable[..., Any]]:
    """Answers to what code asks of fake tensors. The only truth value that matters is whether the
    attention mask is all ones."""

    def value(tensor: torch.Tensor) -> Any:
        if tensor.dtype == torch.bool:
            return not is_padded()
        return NO_VALUE if tensor.is_floating_point() else int(NO_VALUE)

    found: dict[Any, Callable[..., Any]] = {
        torch.ops.aten._local_scalar_dense.default: value,
        # asked for at every step of every operation: answered without a trip through torch
        torch.ops.prim.device.default: lambda tensor: getattr(tensor, "fake_device", tensor.device),
    }
    for method in METHODS:
        found |= method.cost.replies()
    return found


def inner_bytes(on_cuda: bool) -> Callable[[Any, tuple[Any, ...]], int]:
    """Memory that an operation takes and gives back while it runs, besides its result."""
    known: dict[Any, Callable[..., int]] = {}
    for method in METHODS:
        known |= method.cost.inner_bytes(on_cuda)

    def count(func: Any, args: tuple[Any, ...]) -> int:
        found = known.get(func)
        return found(*args) if found else 0

    return count


@contextmanager
def cuda_kernels() -> Iterator[None]:
    """Inside, fake CPU tensors take the paths of CUDA tensors."""
    with ExitStack() as stack:
        for method in METHODS:
            stack.enter_context(method.cost.cuda_kernels())
        yield


def constants(model: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors of a model that are neither parameters nor buffers, fake or real."""
    for method in METHODS:
        yield from method.cost.constants(model)
