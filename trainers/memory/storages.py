"""Counts the live storages of whatever runs under it: the sum, its parts, and the peak of each phase.

The same meter reads a dry run on fake tensors and a real run: what it counts in the second is the truth
that the first is held against. It sees every tensor that an operation returns; memory that a kernel takes
and gives back inside of one operation is told to it by `inner_bytes`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.meters.readers import LARGE_BLOCK_BYTES

Reply = Callable[..., Any]

BETWEEN = "between"
"""The phase outside of all phases; it has no peak."""
INNER = -1
"""Key of what an operation takes and gives back while it runs: storages have addresses."""


@dataclass
class Peak:
    """The highest sum of live storages in one phase, and what it was made of."""

    total_bytes: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    """Kind -> bytes at that moment."""


@dataclass
class _Live:
    size_bytes: int
    kind: str
    reference: Any


class StorageMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Live storages by kind. Tensors that exist before are made known with `adopt`."""

    def __init__(
        self,
        replies: Mapping[Any, Reply] | None = None,
        inner_bytes: Callable[[Any, tuple[Any, ...]], int] | None = None,
        rounded: Callable[[int], int] | None = None,
        on_change: Callable[[int, int], None] | None = None,
    ) -> None:
        """`replies`: operations that are answered instead of run; `inner_bytes`: memory that an operation
        needs while it runs; `rounded`: what an allocator makes of a size; `on_change`: is told the key and
        the size of each new storage, and the size 0 when it is gone."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = BETWEEN
        self.last_operation: Any = None
        self.last_phase = BETWEEN
        self.kind = "other"
        """Kind of the storages that are made now."""
        self.kind_of: Callable[[Any, tuple[Any, ...], torch.Tensor], str | None] | None = None
        """Says the kind of a new tensor, from the operation, its arguments and itself, where it knows."""
        self.peaks: dict[str, Peak] = {}
        self.total_bytes = 0
        self.parts: dict[str, int] = {}
        self.made_small_bytes: dict[str, int] = {}
        """Phase -> all storages below LARGE_BLOCK_BYTES that were made in it, also those that are gone."""
        self.aside_bytes = 0
        """What was made `aside`."""
        self._is_aside = False
        self._live: dict[int, _Live] = {}
        self._replies = replies or {}
        self._inner_bytes = inner_bytes
        self._rounded = rounded or (lambda size: size)
        self._on_change = on_change

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing compiles under a meter, and torch's guard against it takes longer than the count."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reply = self._replies.get(func)
        if reply is None:
            self.last_operation, self.last_phase = func, self.phase
        result = (reply or func)(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self._see(result, func, args)
        elif isinstance(result, list | tuple):
            for item in result:
                if isinstance(item, torch.Tensor):
                    self._see(item, func, args)
        inner = self._inner_bytes(func, args) if self._inner_bytes else 0
        if inner and self._on_change:
            self._on_change(INNER, inner)
            self._on_change(INNER, 0)
        self._note(inner)
        return result

    def adopt(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Count tensors as `kind` from now on, whether they were known or not."""
        for tensor in tensors:
            self._see(tensor)
            self._relabel(tensor, kind)
        self._note(0)

    def _relabel(self, tensor: torch.Tensor, kind: str) -> None:
        live = self._live.get(tensor.untyped_storage()._cdata)
        if live is not None and live.kind != kind:
            self._add(live.kind, -live.size_bytes)
            self._add(kind, live.size_bytes)
            live.kind = kind

    def _see(self, tensor: torch.Tensor, func: Any = None, args: tuple[Any, ...] = ()) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = self._rounded(storage.nbytes())
        if not size or tensor.device.type == "meta":
            return
        if self._is_aside:
            self.aside_bytes += size
            self._live[key] = _Live(0, "aside", weakref.ref(storage, lambda _: self._live.pop(key, None)))
            return
        kind = (self.kind_of and self.kind_of(func, args, tensor)) or self.kind
        self._live[key] = _Live(size, kind, weakref.ref(storage, lambda _: self._forget(key)))
        self.total_bytes += size
        if size < LARGE_BLOCK_BYTES:
            self.made_small_bytes[self.phase] = self.made_small_bytes.get(self.phase, 0) + size
        self._add(kind, size)
        if self._on_change:
            self._on_change(key, size)

    def _forget(self, key: int) -> None:
        live = self._live.pop(key, None)
        if live is None:
            return
        self.total_bytes -= live.size_bytes
        self._add(live.kind, -live.size_bytes)
        if self._on_change:
            self._on_change(key, 0)

    def _add(self, kind: str, size_bytes: int) -> None:
        self.parts[kind] = self.parts.get(kind, 0) + size_bytes

    def _note(self, inner_bytes: int) -> None:
        if self.phase == BETWEEN:
            return
        peak = self.peaks.get(self.phase)
        if peak is None:
            peak = self.peaks[self.phase] = Peak()
        if self.total_bytes + inner_bytes > peak.total_bytes:
            peak.total_bytes = self.total_bytes + inner_bytes
            peak.parts = dict(self.parts)
            if inner_bytes:
                peak.parts["temporary"] = peak.parts.get("temporary", 0) + inner_bytes

    def enter(self, phase: str, kind: str) -> None:
        """From now on it is `phase`, and new storages are of `kind`."""
        self.phase, self.kind = phase, kind
        self._note(0)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Storages that are made inside come from another place than the allocator: no peak holds them."""
        self._is_aside = True
        try:
            yield
        finally:
            self._is_aside = False

    @contextmanager
    def during(self, phase: str, kind: str) -> Iterator[None]:
        """`phase` for the length of a block, then what it was before."""
        before = self.phase, self.kind
        self.enter(phase, kind)
        try:
            yield
        finally:
            self._note(0)
            self.phase, self.kind = before
