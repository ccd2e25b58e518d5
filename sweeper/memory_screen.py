"""Settles cells that are predicted not to fit, and keeps what was predicted of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.contract import GIB, Measurements, Outcome, TrialResult
from sweeper.contract_memory import MemoryPrediction
from sweeper.correction import Corrections
from sweeper.launchers.base import Launcher
from sweeper.prediction import Answer, Unpredictable, predictions
from sweeper.provenance import digest, machine, now
from sweeper.records import TrialRecord
from sweeper.schema import Config, from_dict
from sweeper.time_model import TimeModels, device_key


@dataclass(frozen=True)
class Expected:
    """What one trial is expected to need."""

    predicted_bytes: int
    corrected_bytes: int
    """The prediction after what finished trials of the study taught."""


class MemoryScreen:
    """A screen of the scheduler: says how a trial would end that need not be started."""

    def __init__(self, launcher: Launcher, cache_dir: Path, device_bytes: int | None = None) -> None:
        """`device_bytes`: memory of the CUDA device, where there is one."""
        self._launcher = launcher
        self._cache_dir = cache_dir
        self._device_bytes = device_bytes
        self._known: dict[str, Answer] = {}
        self.corrections = Corrections()

    def look(self, configs: Sequence[Config]) -> list[Answer]:
        """The prediction of each configuration; those that are new are asked for together."""
        new = {_key(config): config for config in configs if _key(config) not in self._known}
        try:
            found = predictions(list(new.values()), self._cache_dir, self._launcher) if new else []
        except RuntimeError as error:  # a cell without a prediction is run all the same
            found = [Unpredictable(str(error))] * len(new)
        self._known |= dict(zip(new, found, strict=True))
        return [self._known[_key(config)] for config in configs]

    def verdict(self, config: Config) -> TrialResult | None:
        """`predicted_oom` for a cell that is confidently predicted not to fit; None for one to be run."""
        limit_bytes = self.limit_bytes(config)
        if limit_bytes is None or config.memory.skip == "never":
            return None
        (answer,) = self.look([config])
        if not isinstance(answer, MemoryPrediction) or not exceeds(answer, limit_bytes, config.memory.margin):
            return None
        expected = self.expected(config)
        return TrialResult(
            Outcome.PREDICTED_OOM,
            f"the predicted peak of {answer.peak_bytes / GIB:.3f} GiB, set by {answer.phase}, exceeds the "
            f"{limit_bytes / GIB:.3f} GiB that a trial may use by more than memory.margin="
            f"{config.memory.margin:g}: `python -m sweeper memory` says what would fit, memory.skip=never "
            "runs the cell",
            measurements=Measurements(
                predicted_memory_bytes=expected.predicted_bytes if expected else None,
                corrected_memory_bytes=expected.corrected_bytes if expected else None,
            ),
            ended_at=now(),
        )

    def expected(self, config: Config) -> Expected | None:
        """What a trial of this configuration is expected to need; None where it could not be predicted."""
        (answer,) = self.look([config])
        if not isinstance(answer, MemoryPrediction):
            return None
        correction = self.corrections.of(config.to_dict())
        return Expected(answer.expected_bytes, correction.of(answer.expected_bytes))

    def hear(self, record: TrialRecord) -> None:
        """Take a finished trial into account: its memory for this study, its speed for later ones too."""
        self.corrections.learn(record)
        answer = self._known.get(_key(from_dict(record.spec.config)))
        seconds = record.metric("step_time_s")
        if isinstance(answer, MemoryPrediction) and answer.work and seconds:
            times = TimeModels(self._cache_dir)
            times.learn(device_key(machine().device, record.spec.config), answer.work, seconds)
            times.save()

    def limit_bytes(self, config: Config) -> int | None:
        """Memory that a trial of this configuration may use; None without a limit."""
        if config.trial.memory_limit_gib is not None:
            return int(config.trial.memory_limit_gib * GIB)
        return None if config.trial.device == "cpu" else self._device_bytes


def exceeds(prediction: MemoryPrediction, limit_bytes: int, margin: float) -> bool:
    """Whether a prediction is above the limit by more than the margin.

    The sum of live tensors decides: it is what the allocator must hold at least, whatever it does besides.
    """
    return prediction.peak_bytes > limit_bytes * (1 + margin)


def _key(config: Config) -> str:
    values = config.to_dict()
    for section in ("study", "tracking", "objective", "constraint", "hardware", "memory"):
        values.pop(section, None)
    values["trial"] = values["trial"]["device"]
    return digest(values)
