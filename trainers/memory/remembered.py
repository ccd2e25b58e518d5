"""Fake tensors that remember: an operation seen before with such arguments is answered from a recipe.

A model repeats its layers, so nearly every operation of a dry run has been seen. torch's own cache of fake
operations checks for what cannot occur here (symbolic shapes, sparse tensors, tracing) and takes 0.2 ms an
operation; a recipe takes a tenth of that. What has no simple recipe goes to torch each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

PLAIN = (bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
"""Types of arguments whose values decide the result. The type is part of a key: 1, 1.0 and True are equal."""
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Made:
    """A result of its own storage, or a view of the argument at `view_of`."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    view_of: int | None


@dataclass(frozen=True, slots=True)
class _Same:
    """The result is the argument at `position`: the operation works in place."""

    position: int


@dataclass(frozen=True, slots=True)
class _Recipe:
    results: tuple[_Made | _Same | None, ...]
    container: type | None
    """Type of the sequence of results; None: there is one."""


class RememberingFakeMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """`FakeTensorMode` with recipes, which outlive it: a later prediction has the same operations."""

    _recipes: dict[Key, _Recipe | None] = {}  # noqa: RUF012 - shared by all modes

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._attributes: dict[torch.device, dict[str, Any]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing compiles here; torch's guard against it costs more than a recipe."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        key = _key(func, args, kwargs or {})
        recipe = self._recipes.get(key) if key is not None else None
        if recipe is not None:
            return self._follow(recipe, args)
        result = super().__torch_dispatch__(func, types, args, kwargs or {})
        if key is not None and key not in self._recipes:
            changes_shapes = _key(func, args, kwargs or {}) != key  # in place, like `t_` and `resize_`
            self._recipes[key] = None if changes_shapes else _recipe(result, args, kwargs or {})
        return result

    def _follow(self, recipe: _Recipe, args: Sequence[Any]) -> Any:
        results = [self._result(each, args) for each in recipe.results]
        return results[0] if recipe.container is None else recipe.container(results)

    def _result(self, made: _Made | _Same | None, args: Sequence[Any]) -> Any:
        if made is None:
            return None
        if isinstance(made, _Same):
            return args[made.position]
        with torch._C._DisableTorchDispatch():
            if made.view_of is None:
                bare = torch.empty_strided(made.shape, made.stride, dtype=made.dtype, device="meta")
            else:
                storage = args[made.view_of].untyped_storage()
                bare = torch.empty(0, dtype=made.dtype, device="meta")
                bare.set_(storage, made.offset, made.shape, made.stride)
        return self._as_fake(bare, made.device)

    def _as_fake(self, bare: torch.Tensor, device: torch.device) -> FakeTensor:
        """As `FakeTensor` makes it, whose checks take longer than all of the above."""
        attributes = self._attributes.get(device)
        if attributes is None:
            made = FakeTensor(self, bare, device)
            self._attributes[device] = dict(vars(made))
            return made
        fake: FakeTensor = torch.Tensor._make_subclass(
            FakeTensor, bare, False, dispatch_device=True, device_for_backend_keys=device
        )
        torch._C._set_throw_on_mutable_data_ptr(fake)
        vars(fake).update(attributes)
        return fake


def _key(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Key | None:
    """What decides the result of an operation; None where that is more than shapes, types and values."""
    parts: list[Any] = [func, torch.get_default_dtype(), torch.is_inference_mode_enabled()]
    if not _describe(args, parts):
        return None
    for name, value in kwargs.items():
        parts.append(name)
        if not _describe((value,), parts):
            return None
    return tuple(parts)


def _describe(values: Sequence[Any], parts: list[Any]) -> bool:
    parts.append(len(values))
    for value in values:
        if isinstance(value, FakeTensor):
            if value.constant is not None or value.dtype.is_complex or value.layout != torch.strided:
                return False
            parts += value.shape, value.stride(), value.storage_offset(), value.dtype, value.fake_device
        elif value is None:
            parts.append(None)
        elif isinstance(value, PLAIN):
            parts += type(value), value
        elif not isinstance(value, list | tuple) or not _describe(value, parts):
            return False
    return True


def _recipe(result: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Recipe | None:
    container = type(result) if isinstance(result, list | tuple) else None
    results = result if container else [result]
    if container not in (None, list, tuple):
        return None  # a type with names of its own
    inner = [item for value in (*args, *kwargs.values()) if isinstance(value, list | tuple) for item in value]
    elsewhere = _storages([*inner, *kwargs.values()])
    made: list[_Made | _Same | None] = []
    for item in results:
        part = _part(item, args)
        if part is NotImplemented or (isinstance(item, FakeTensor) and _storage(item) in elsewhere):
            return None
        made.append(part)
        if isinstance(part, _Made) and part.view_of is None:
            elsewhere.add(_storage(item))  # two results of one new storage have no recipe
    return _Recipe(tuple(made), container)


def _part(item: Any, args: Sequence[Any]) -> Any:
    if item is None:
        return None
    if not isinstance(item, FakeTensor) or item.constant is not None or item.dtype.is_complex:
        return NotImplemented
    for position, argument in enumerate(args):
        if item is argument:
            return _Same(position)
    storage = _storage(item)
    tensors = [(position, arg) for position, arg in enumerate(args) if isinstance(arg, FakeTensor)]
    view_of = next((position for position, argument in tensors if _storage(argument) == storage), None)
    offset = int(item.storage_offset())
    made = _Made(tuple(item.shape), item.stride(), offset, item.dtype, item.fake_device, view_of)
    return made if view_of is not None or _fills_its_storage(item) else NotImplemented


def _fills_its_storage(item: torch.Tensor) -> bool:
    """Whether a new tensor of this shape and stride has a storage of the same size."""
    last = sum((size - 1) * stride for size, stride in zip(item.shape, item.stride(), strict=True))
    needed = (last + 1) * item.element_size() if item.numel() else 0
    return item.storage_offset() == 0 and item.untyped_storage().nbytes() == needed


def _storages(values: Sequence[Any]) -> set[int]:
    return {_storage(value) for value in values if isinstance(value, FakeTensor)}


def _storage(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
