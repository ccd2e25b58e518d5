"""Nested values as JSON beside a flat table of tensors, and back: what `state.json` and safetensors hold.

A container is an object with one key, its kind; a tensor is `{"tensor": [its name, its device]}`. Tensors
that are one object are stored once and come back as one.
"""

from __future__ import annotations

from typing import Any

import torch

Scalars = bool | int | float | str | None


def pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The value as JSON; its tensors go into `tensors`. Raises TypeError for what neither can hold."""
    return _Packer(tensors).pack(value, "")


class _Packer:
    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._names: dict[int, str] = {}

    def pack(self, value: Any, place: str) -> Any:
        if isinstance(value, torch.Tensor):
            return {"tensor": [self._name(value, place), value.device.type]}
        if isinstance(value, dict):
            return {"dict": [[key, self.pack(item, f"{place}.{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [self.pack(item, f"{place}.{index}") for index, item in enumerate(value)]}
        if isinstance(value, Scalars):
            return value
        raise TypeError(
            f"a checkpoint holds tensors and JSON values, but {place[1:]} is a {type(value).__name__}"
        )

    def _name(self, tensor: torch.Tensor, place: str) -> str:
        known = self._names.get(id(tensor))
        if known is None:
            known = self._names[id(tensor)] = place[1:]
            self._tensors[known] = tensor.detach().cpu().contiguous()
        return known


def unpack(packed: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The value that was packed."""
    if not isinstance(packed, dict):
        return packed
    ((kind, items),) = packed.items()
    if kind == "tensor":
        name, device = items
        return tensors[name].to(device)
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in items}
    values = [unpack(item, tensors) for item in items]
    return tuple(values) if kind == "tuple" else values
