"""What is known of a trial so far, and the result that it makes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from sweeper.contract.config import Config
from sweeper.contract.measurements import Measurements
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from trainers.loops.recorder import Recorder
from trainers.meters import environment
from trainers.meters.phases import Meters, PhaseRecord
from trainers.proof import find_qualifications

REPORTED = ("load", "train", "eval")
"""Phases whose peak memory is a measurement of its own."""


@dataclass
class Record:
    """The facts of a trial in progress."""

    spec: TrialSpec
    config: Config
    device: torch.device
    meters: Meters
    found: dict[str, Any] = field(default_factory=dict)
    """Measurements that are known, by the names of `Measurements`."""
    active: dict[str, Any] = field(default_factory=dict)
    """What was found really active."""
    recorder: Recorder | None = None
    """The steps, once training has begun."""
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    def result(self, outcome: Outcome, reason: str | None, traceback: str | None = None) -> TrialResult:
        """The result as of now. After an exception it holds what was measured until then."""
        return TrialResult(
            outcome=outcome,
            reason=reason,
            measurements=self.measurements(),
            active=self.active,
            environment=environment.describe(self.device, self.meters.nvml),
            definitions={**self.meters.definitions, **find_qualifications(self.config, self.active)},
            traceback=traceback,
            started_at=self.started_at,
            ended_at=datetime.now(UTC).isoformat(),
        )

    def measurements(self) -> Measurements:
        """What has been measured so far."""
        found = {**self.found, **self._steps(), **self._phases(), **self._predicted()}
        if found.get("trainable_parameters"):
            found["trainable_share"] = found["trainable_parameters"] / found["total_parameters"]
            if "optimizer_state_bytes" in found:
                per_parameter = found["optimizer_state_bytes"] / found["trainable_parameters"]
                found["optimizer_state_bytes_per_parameter"] = per_parameter
        if found.get("eval_loss") is not None and found.get("train_loss") is not None:
            found["overfit_gap"] = found["eval_loss"] - found["train_loss"]
        return Measurements(**found, total_time_s=self.meters.elapsed_s())

    def _predicted(self) -> dict[str, Any]:
        names = ("predicted_memory_bytes", "corrected_memory_bytes")
        return {name: getattr(self.spec, name) for name in names}

    def _steps(self) -> dict[str, Any]:
        recorder = self.recorder
        if recorder is None:
            return {}
        return {
            **asdict(recorder.speed(self.config.trial.warmup_steps)),
            "steps": recorder.steps,
            "skipped_steps": recorder.skipped_steps,
            "tokens": sum(recorder.plan.tokens[: recorder.steps]),
            "padded_tokens": sum(recorder.plan.padded_tokens[: recorder.steps]),
            "train_loss": recorder.train_loss(),
            "train_time_s": sum(recorder.times_s),
        }

    def _phases(self) -> dict[str, Any]:
        phases, highest = self.meters.phases, self.meters.highest
        empty = PhaseRecord()
        peaks = {f"peak_memory_{name}_bytes": phases[name].peak_bytes for name in REPORTED if name in phases}
        on_cuda = self.device.type == "cuda"
        return {
            **peaks,
            "peak_memory_bytes": highest("peak_bytes"),
            "peak_memory_allocated_bytes": highest("peak_bytes") if on_cuda else None,
            "peak_memory_reserved_bytes": highest("reserved_bytes"),
            "device_memory_bytes": highest("device_bytes"),
            "load_time_s": phases["load"].seconds if "load" in phases else None,
            "eval_time_s": phases["eval"].seconds if "eval" in phases else None,
            "energy_j": phases.get("train", empty).energy_j,
        }
