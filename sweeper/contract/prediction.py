"""What a trial is predicted to need: the record that passes between the prediction and the driver.

Standard library only. Bytes throughout; an unknown value is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PHASES = ("load", "forward", "backward", "optimizer step", "evaluation")
"""Phases of a trial, in order. `forward` holds the loss."""


@dataclass(frozen=True)
class MemoryPrediction:
    """The predicted peak memory of one trial, with its parts."""

    peak_bytes: int
    """Highest sum of live tensors; on CUDA what `max_memory_allocated` shows."""
    phase: str
    """The phase that sets the peak, of PHASES."""
    parts: dict[str, int] = field(default_factory=dict)
    """Kind of storage -> bytes at the moment of the peak, largest first."""
    phases: dict[str, int] = field(default_factory=dict)
    """Phase -> its own peak."""
    device: str = "cpu"
    """`cpu` or `cuda`: whose kernels and whose allocator were assumed."""
    reserved_bytes: int | None = None
    """CUDA only: highest sum of the caching allocator's segments (`max_memory_reserved`)."""
    context_bytes: int | None = None
    """CUDA only: what driver and libraries hold besides; None where this device was never probed."""
    paged_bytes: int | None = None
    """CUDA only, with a paged optimizer: its state in managed memory, which the device gives up under
    pressure; not in the peak and not the allocator's."""
    resident_bytes: int | None = None
    """CPU only: highest resident memory above the level at trial start, mapped files included."""
    private_bytes: int | None = None
    """CPU only: private writable memory above the level at trial start, which `trial.memory_limit_gib`
    limits: live tensors, and what malloc and the libraries take besides."""
    longest_tokens: int | None = None
    """Length of the longest batch that was assumed."""
    micro: int | None = None
    """Sequences per pass that were assumed."""
    notes: tuple[str, ...] = ()
    """What was assumed for want of data, in words."""
    work: dict[str, float] = field(default_factory=dict)
    """Floating-point operations, tokens and passes of one optimizer step, for the prediction of time."""

    @property
    def needed_bytes(self) -> int:
        """What must fit: on CUDA the allocator's segments and the device's context, on CPU what the limit
        of a trial counts."""
        return (self.reserved_bytes or self.private_bytes or self.peak_bytes) + (self.context_bytes or 0)

    @property
    def expected_bytes(self) -> int:
        """What a trial measures as its `peak_memory_bytes`: allocated on CUDA, resident on CPU."""
        return self.resident_bytes or self.peak_bytes

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> MemoryPrediction:
        """Read a record; fields of other versions of sweeper are ignored."""
        names = {item.name for item in dataclasses.fields(cls)}
        known = {name: value for name, value in record.items() if name in names}
        known["notes"] = tuple(known.get("notes") or ())
        known["parts"] = dict(sorted(known.get("parts", {}).items(), key=lambda item: -item[1]))
        known["phases"] = {name: known["phases"][name] for name in PHASES if name in known.get("phases", {})}
        return cls(**known)
