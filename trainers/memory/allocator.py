"""What torch's CUDA caching allocator makes of a sequence of storages: rounding and segments.

A small model of c10/cuda/CUDACachingAllocator.cpp (torch 2.13) with its default settings, on one stream:
sizes are rounded, blocks come from segments of fixed sizes, the smallest free block that fits is taken and
split, neighbours that are free are joined, and segments are never given back. CPU memory is not rounded.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

MIN_BLOCK = 512
"""kMinBlockSize: all sizes are rounded to at least 512 bytes."""
SMALL_SIZE = 2**20
"""kSmallSize: largest "small" allocation."""
SMALL_BUFFER = 2 * 2**20
"""kSmallBuffer: "small" allocations are packed in 2 MiB segments."""
LARGE_BUFFER = 20 * 2**20
"""kLargeBuffer: "large" allocations may be packed in 20 MiB segments."""
MIN_LARGE_ALLOCATION = 10 * 2**20
"""kMinLargeAlloc: allocations between 1 and 10 MiB may use kLargeBuffer."""
ROUND_LARGE = 2 * 2**20
"""kRoundLarge: larger segments are rounded up to 2 MiB."""


def cuda_block_bytes(size: int) -> int:
    """Size of the block that an allocation of `size` bytes gets (`round_size`)."""
    return -(-size // MIN_BLOCK) * MIN_BLOCK


def _segment_bytes(size: int) -> int:
    if size <= SMALL_SIZE:
        return SMALL_BUFFER
    if size < MIN_LARGE_ALLOCATION:
        return LARGE_BUFFER
    return -(-size // ROUND_LARGE) * ROUND_LARGE


@dataclass
class _Block:
    size: int
    start: int
    is_small: bool
    previous: _Block | None = None
    next: _Block | None = None
    is_free: bool = True


class CachingAllocator:
    """Replays allocations and keeps count of the segments."""

    def __init__(self) -> None:
        self.reserved_bytes = 0
        self.peak_reserved_bytes = 0
        self._free: dict[bool, list[tuple[int, int, _Block]]] = {True: [], False: []}
        self._used: dict[int, _Block] = {}
        self._next_start = 0

    def change(self, key: int, size: int) -> None:
        """A storage `key` of `size` bytes came to life; size 0: it is gone."""
        if size:
            self._used[key] = self._take(cuda_block_bytes(size))
        elif (block := self._used.pop(key, None)) is not None:
            self._give_back(block)

    def _take(self, size: int) -> _Block:
        is_small = size <= SMALL_SIZE
        free = self._free[is_small]
        index = bisect.bisect_left(free, (size, -1))
        block = free.pop(index)[2] if index < len(free) else self._new_segment(size, is_small)
        block.is_free = False
        rest = block.size - size
        # should_split: small blocks down to the smallest size, large ones while more than 1 MiB is left
        if rest >= MIN_BLOCK if is_small else rest > SMALL_SIZE:
            self._split(block, size)
        return block

    def _new_segment(self, size: int, is_small: bool) -> _Block:
        segment = _segment_bytes(size)
        block = _Block(segment, self._next_start, is_small)
        self._next_start += segment
        self.reserved_bytes += segment
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return block

    def _split(self, block: _Block, size: int) -> None:
        rest = _Block(block.size - size, block.start + size, block.is_small, block, block.next)
        if block.next is not None:
            block.next.previous = rest
        block.size, block.next = size, rest
        self._insert(rest)

    def _give_back(self, block: _Block) -> None:
        block.is_free = True
        for neighbour in (block.previous, block.next):
            if neighbour is not None and neighbour.is_free:
                self._remove(neighbour)
                block = _joined(*sorted((block, neighbour), key=lambda item: item.start))
        self._insert(block)

    def _insert(self, block: _Block) -> None:
        bisect.insort(self._free[block.is_small], (block.size, block.start, block))

    def _remove(self, block: _Block) -> None:
        free = self._free[block.is_small]
        del free[bisect.bisect_left(free, (block.size, block.start))]


def _joined(left: _Block, right: _Block) -> _Block:
    left.size += right.size
    left.next = right.next
    if right.next is not None:
        right.next.previous = left
    return left
