"""Time, peak memory and energy of a trial by phase: load, train, eval.

A phase may interrupt another (an evaluation in the middle of training): the outer one is paused, and
its peak and time cover only its own segments.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sweeper.contract.measurements import METRICS
from trainers.meters import readers
from trainers.meters.readers import Nvml

CPU_DEFINITIONS = {
    "peak_memory_bytes": "highest resident memory of the trial's process (VmHWM, reset at the start of "
    "each phase) less its resident memory at trial start with all library pages mapped; malloc maps blocks "
    "from 4 MiB on apart",
}
CUDA_DEFINITIONS = {
    "peak_memory_bytes": "highest sum of live tensors in torch's CUDA allocator (max_memory_allocated)",
    "peak_memory_allocated_bytes": "torch.cuda.max_memory_allocated over all phases",
    "peak_memory_reserved_bytes": "torch.cuda.max_memory_reserved over all phases",
    "device_memory_bytes": "highest NVML memory of this process at the ends of phases, context included",
    "mfu": "operations that the median step needs over those of the datasheet's dense peak in the same "
    "time; for a device without one here, over the fastest of ten matrix products measured on it",
    "energy_j": "difference of NVML's total energy of the device over the training segments",
}
COMMON_DEFINITIONS = {
    name: METRICS[name].definition
    for name in (
        "step_time_s", "tokens_per_s", "padded_tokens_per_s", "train_time_s", "train_loss", "eval_loss",
        "forgetting",
    )
}  # fmt: skip
NOT_OF_A_TRIAL = "checkpoint"
"""Phase of a production run whose memory is left out, so that its peak compares with the trial's."""


@dataclass
class PhaseRecord:
    """What one phase took. Unknown is None."""

    seconds: float = 0.0
    peak_bytes: int | None = None
    """Allocated on CUDA; resident above the trial's start on CPU."""
    reserved_bytes: int | None = None
    device_bytes: int | None = None
    energy_j: float | None = None


class Meters:
    """Phases of one trial on one device. Made at trial start: its level is the zero of CPU memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases: dict[str, PhaseRecord] = {}
        self._running: list[str] = []
        self._segment_start_s = 0.0
        self._segment_start_energy_j: float | None = None
        if device.type == "cpu":
            readers.map_library_pages()
            readers.keep_large_blocks_apart()
        self._start_bytes = readers.resident_bytes()
        self.nvml = Nvml(device)
        self.started_s = time.perf_counter()

    @property
    def definitions(self) -> dict[str, str]:
        """How each figure was read, in words."""
        by_device = CUDA_DEFINITIONS if self.device.type == "cuda" else CPU_DEFINITIONS
        return {**COMMON_DEFINITIONS, **by_device}

    def resume(self, elapsed_s: float, phases: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from what `state` told of an earlier process."""
        self.started_s -= elapsed_s
        self.phases = {name: PhaseRecord(**phase) for name, phase in phases.items()}

    def state(self) -> dict[str, Any]:
        """What `resume` needs, as plain JSON types."""
        phases = {name: dataclasses.asdict(phase) for name, phase in self.phases.items()}
        return {"elapsed_s": self.elapsed_s(), "phases": phases}

    def elapsed_s(self) -> float:
        """Seconds since trial start."""
        return time.perf_counter() - self.started_s

    @contextmanager
    def phase(self, name: str) -> Iterator[PhaseRecord]:
        """Measure a phase. Entered several times, its times add up and its peak is the highest."""
        if self._running:
            self._close_segment()
        self._running.append(name)
        self._open_segment()
        try:
            yield self.phases.setdefault(name, PhaseRecord())
        finally:
            self._close_segment()
            self._running.pop()
            if self._running:
                self._open_segment()

    def idle_s(self) -> float:
        """The clock once the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def highest(self, field: str) -> int | None:
        """The highest value of a `PhaseRecord` field over the phases that a trial has too."""
        values = [getattr(record, field) for name, record in self.phases.items() if name != NOT_OF_A_TRIAL]
        return max((value for value in values if value is not None), default=None)

    def _open_segment(self) -> None:
        self._segment_start_s = self.idle_s()
        self._segment_start_energy_j = self.nvml.energy_j()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif not readers.reset_peak_resident():
            self._start_bytes = None  # peaks of phases cannot be told apart: unknown

    def _close_segment(self) -> None:
        record = self.phases.setdefault(self._running[-1], PhaseRecord())
        record.seconds += self.idle_s() - self._segment_start_s
        record.peak_bytes = _max(record.peak_bytes, self._peak_bytes())
        if self.device.type == "cuda":
            record.reserved_bytes = _max(record.reserved_bytes, torch.cuda.max_memory_reserved(self.device))
            record.device_bytes = _max(record.device_bytes, self.nvml.process_bytes())
        energy_j = self.nvml.energy_j()
        if energy_j is not None and self._segment_start_energy_j is not None:
            record.energy_j = (record.energy_j or 0.0) + energy_j - self._segment_start_energy_j

    def _peak_bytes(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = readers.peak_resident_bytes()
        if peak is None or self._start_bytes is None:
            return None
        return max(peak - self._start_bytes, 0)


def _max(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else max(left, right)
