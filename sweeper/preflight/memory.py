"""Settles cells that are predicted not to fit, and keeps what was predicted of the others."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sweeper.config.cell import Cell, ConfigurationError
from sweeper.contract.config import DEFAULT_EFFECTIVE_BATCH, BatchConfig, Config, from_dict
from sweeper.contract.measurements import Measurements
from sweeper.contract.prediction import MemoryPrediction
from sweeper.contract.scopes import memory_identity
from sweeper.contract.stamps import digest, now
from sweeper.contract.trial import GIB, Outcome, Problem, TrialResult
from sweeper.launchers.ask import NoReplyError
from sweeper.launchers.base import Launcher
from sweeper.machine import machine
from sweeper.preflight.correction import FEW, Corrections
from sweeper.preflight.prediction import Answer, Unpredictable, predictions
from sweeper.preflight.remembered import Remembered
from sweeper.preflight.time import TimeModels, device_key, device_of
from sweeper.study.observer import Observer
from sweeper.study.records import TrialRecord


@dataclass(frozen=True)
class Expected:
    """What one trial is expected to need."""

    predicted_bytes: int
    corrected_bytes: int
    """The prediction after what finished trials of the study taught."""


class MemoryScreen(Observer):
    """A screen of the scheduler: says how a trial would end that need not be started."""

    def __init__(
        self,
        launcher: Launcher,
        cache_dir: Path,
        device_bytes: int | None = None,
        free_bytes: int | None = None,
    ) -> None:
        """`device_bytes`: memory of the CUDA device, if there is one; `free_bytes`: what of it was free."""
        self._launcher = launcher
        self._cache_dir = cache_dir
        self._device_bytes = device_bytes
        self._free_bytes = free_bytes
        self._remembered = Remembered(cache_dir, "predictions", machine())
        self._known: dict[str, Answer] = {}
        self.corrections = Corrections()

    def look(self, configs: Sequence[Config]) -> list[Answer]:
        """The prediction of each configuration; those that are new are asked for together."""
        wanted = {_key(config): config for config in configs}
        new = {key: config for key, config in wanted.items() if not self._recalls(key, config)}
        if new:
            self._known |= dict(zip(new, self._predict(new), strict=True))
        return [self._known[_key(config)] for config in configs]

    def _recalls(self, key: str, config: Config) -> bool:
        """Whether there is a prediction, of this run or of an earlier one."""
        if key not in self._known:
            kept = self._remembered.get(self._remembered.key(config, key))
            if kept is not None:
                self._known[key] = MemoryPrediction.from_json(kept)
        return key in self._known

    def _predict(self, asked: Mapping[str, Config]) -> list[Answer]:
        """Ask for predictions. Kept are those for a CPU: on CUDA more is learned of the device's context."""
        keys = [self._remembered.key(config, key) for key, config in asked.items()]
        try:
            found = predictions(list(asked.values()), self._cache_dir, self._launcher)
        except NoReplyError as error:  # a cell without a prediction is run all the same
            return [Unpredictable(str(error))] * len(asked)
        answers = zip(keys, found, strict=True)
        self._remembered.put(
            {
                key: answer.to_json()
                for key, answer in answers
                if isinstance(answer, MemoryPrediction) and answer.device == "cpu"
            }
        )
        return found

    def verdict(self, config: Config) -> TrialResult | None:
        """`predicted_oom` for a cell that is confidently predicted not to fit; None for one to be run."""
        limit_bytes = self.limit_bytes(config)
        if limit_bytes is None or not self.is_skipped(config):
            return None
        (answer,) = self.look([config])
        assert isinstance(answer, MemoryPrediction)
        expected, decisive_bytes = self.expected(config), self._decisive_bytes(config, answer)
        corrected = "" if decisive_bytes == answer.peak_bytes else ", corrected by this study's trials"
        return TrialResult(
            Outcome.PREDICTED_OOM,
            f"the predicted peak of {decisive_bytes / GIB:.3f} GiB, set by {answer.phase}{corrected}, "
            f"exceeds the {limit_bytes / GIB:.3f} GiB that a trial may use by more than memory.margin="
            f"{config.memory.margin:g}: `python -m sweeper memory` says what would fit, memory.skip=never "
            "runs the cell",
            measurements=Measurements(
                predicted_memory_bytes=expected.predicted_bytes if expected else None,
                corrected_memory_bytes=expected.corrected_bytes if expected else None,
            ),
            ended_at=now(),
        )

    def is_skipped(self, config: Config) -> bool:
        """Whether the cell is confidently predicted not to fit, and `memory.skip` heeds that."""
        limit_bytes = self.limit_bytes(config)
        if limit_bytes is None or config.memory.skip == "never":
            return False
        (answer,) = self.look([config])
        return isinstance(answer, MemoryPrediction) and exceeds(
            self._decisive_bytes(config, answer), limit_bytes, config.memory.margin
        )

    def has_changed(self, record: TrialRecord, asked: Config) -> bool:
        """Whether a cell that this screen once skipped is to be run now that `memory` is set differently."""
        before = from_dict(record.spec.config)
        if before.memory == asked.memory or record.metric("predicted_memory_bytes") is None:
            return False  # what bears no prediction was skipped by another screen
        return not self.is_skipped(replace(before, memory=asked.memory))

    def _decisive_bytes(self, config: Config, answer: MemoryPrediction) -> int:
        """The peak that a skip rests on. A wrong skip hides a winner: trials that measured less than was
        predicted always lower it, those that measured more raise it only where several of the same code
        path did, and on CUDA alone, where what is measured is what is predicted."""
        correction = self.corrections.of(config.to_dict())
        share = max(correction.of(answer.expected_bytes), 0) / answer.expected_bytes
        if share > 1 and (answer.device == "cpu" or correction.trials < FEW):
            return answer.peak_bytes
        return round(answer.peak_bytes * share)

    def expected(self, config: Config) -> Expected | None:
        """What a trial of this configuration is expected to need; None where it could not be predicted."""
        if config.batch.micro == "auto":
            return None
        (answer,) = self.look([config])
        if not isinstance(answer, MemoryPrediction):
            return None
        correction = self.corrections.of(config.to_dict())
        return Expected(answer.expected_bytes, correction.of(answer.expected_bytes))

    def sized(self, cell: Cell) -> Cell:
        """The cell with a number for `batch.micro=auto`: the largest that is predicted to fit.

        1 where even that does not, so that the cell is judged as any other. Raises ConfigurationError when
        there is no limit, or nothing can be predicted.
        """
        config = cell.config
        if config.batch.micro != "auto":
            return cell
        limit_bytes, effective = self._room_bytes(config), config.batch.effective or DEFAULT_EFFECTIVE_BATCH
        if limit_bytes is None:
            raise _cannot_size(cell, "no limit is known", "give trial.memory_limit_gib=…")
        divisors = [size for size in range(1, effective + 1) if effective % size == 0]
        tried = [
            replace(cell, config=replace(config, batch=BatchConfig(size, effective, effective // size)))
            for size in divisors
        ]
        too_many = bisect_left(tried, True, key=lambda sized: not self._fits(sized, limit_bytes))
        return tried[max(too_many - 1, 0)]

    def sized_if_possible(self, cell: Cell) -> Cell:
        """The same, but left as it is where that cannot be done: what is wrong with a cell that a search has
        drawn is no mistake of the user's. It is said by `refusal`."""
        with suppress(ConfigurationError):
            return self.sized(cell)
        return cell

    def refusal(self, config: Config) -> TrialResult | None:
        """How a trial would end whose `batch.micro=auto` has found no number; None for all others."""
        try:
            self.sized(Cell({}, config))
        except ConfigurationError as error:
            ((problem, _),) = error.problems
            return TrialResult(Outcome.INVALID, f"{problem.rule}: {problem.remedy}", ended_at=now())
        return None

    def _fits(self, cell: Cell, limit_bytes: int) -> bool:
        (answer,) = self.look([cell.config])
        if not isinstance(answer, MemoryPrediction):
            raise _cannot_size(cell, answer.reason, "give a number")
        return answer.needed_bytes <= limit_bytes

    def on_end(self, trial: TrialRecord) -> None:
        """Take a finished trial into account: its memory for this study, its speed for later ones too."""
        if not trial.is_settled:
            return
        self.corrections.learn(trial)
        config = from_dict(trial.spec.config)
        answer = self._known.get(_key(config))
        seconds, device = trial.metric("step_time_s"), device_of(config, machine())
        if isinstance(answer, MemoryPrediction) and answer.work and seconds and device:
            times = TimeModels(self._cache_dir)
            times.learn(device_key(device, trial.spec.config), answer.work, seconds)
            times.save()

    def _room_bytes(self, config: Config) -> int | None:
        """The limit of a trial, or less where others hold memory of its device: a display, say."""
        limit_bytes = self.limit_bytes(config)
        if limit_bytes is None or self._free_bytes is None or config.trial.device == "cpu":
            return limit_bytes
        return min(limit_bytes, self._free_bytes)

    def limit_bytes(self, config: Config) -> int | None:
        """Memory that a trial of this configuration may use; None without a limit."""
        if config.trial.memory_limit_gib is not None:
            return int(config.trial.memory_limit_gib * GIB)
        return None if config.trial.device == "cpu" else self._device_bytes


def _cannot_size(cell: Cell, why: str, remedy: str) -> ConfigurationError:
    rule = f"batch.micro=auto needs a prediction to go by, but {why}"
    return ConfigurationError([(Problem(rule, "batch.micro", "auto", remedy), cell.label)])


def exceeds(peak_bytes: int, limit_bytes: int, margin: float) -> bool:
    """Whether a peak is above the limit by more than the margin.

    The sum of live tensors is held against it: what the allocator must have at least, whatever it does
    besides.
    """
    return peak_bytes > limit_bytes * (1 + margin)


def _key(config: Config) -> str:
    return digest(memory_identity(config.to_dict()))
