"""One fine-tune, from its specification to its result: the recipe, read from top to bottom.

Nothing is caught here: exceptions belong to the process that runs the trial. What had been measured
until then is in `Trial.result`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from sweeper.contract.config import from_dict
from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import Measurements
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from trainers.data.batches import Plan, plan
from trainers.data.prepared import PreparedData, prepare_data
from trainers.evaluation.loss import evaluation_loss
from trainers.evaluation.quality import Quality, prepare_quality
from trainers.loops import accelerate as accelerate_loop
from trainers.loops import hf as hf_trainer
from trainers.loops.recorder import Recorder
from trainers.meters import environment
from trainers.meters.journal import Journal
from trainers.meters.phases import Meters, PhaseRecord
from trainers.meters.utilization import utilization
from trainers.methods import active as activity
from trainers.methods import expected as claims
from trainers.methods import optimizers, precision
from trainers.methods.adapters import add_adapter, save_adapter
from trainers.methods.model import load_base, load_tokenizer, parameter_counts

LOOPS = {"accelerate": accelerate_loop.train, "hf": hf_trainer.train}
EVALUATED = (Outcome.COMPLETED, Outcome.PRUNED)
"""Outcomes of training after which the evaluation loss is taken."""
REPORTED = ("load", "train", "eval")
"""Phases whose peak memory is a measurement of its own."""


@dataclass(frozen=True)
class Parts:
    """What a fine-tune is made of."""

    tokenizer: PreTrainedTokenizerBase
    data: PreparedData
    quality: Quality
    plan: Plan
    model: nn.Module
    arguments: TrainingArguments
    optimizer: Optimizer


def run(spec: TrialSpec, folder: TrialFolder) -> TrialResult:
    """Carry out a trial. Raises NotActiveError when a method did not take effect, and whatever the
    libraries raise: torch's out of memory, an unreadable model, DataError …"""
    return Trial(spec, folder).run()


class Trial:
    """A trial in progress. Made first of all in its process: its level of memory is the zero."""

    def __init__(self, spec: TrialSpec, folder: TrialFolder) -> None:
        environment.quiet_libraries()
        self.config = from_dict(spec.config)
        self.device = precision.device(self.config)
        precision.choose_float32_products(self.config)
        self.meters = Meters(self.device)
        self._spec = spec
        self._folder = folder
        self._started_at = datetime.now(UTC).isoformat()
        self._found: dict[str, Any] = {}
        self._active: dict[str, Any] = {}
        self._recorder: Recorder | None = None

    def run(self) -> TrialResult:
        """Carry out the recipe. Raises as the module's `run` does."""
        with Journal(self._folder.progress, self.meters.elapsed_s) as journal, self._cache_dir() as cache:
            return self._recipe(journal, cache)

    def _recipe(self, journal: Journal, cache_dir: Path) -> TrialResult:
        config = self.config
        parts = self._load(journal, cache_dir)
        data, model = parts.data, parts.model
        is_probe = config.trial.probe_steps is not None
        if not is_probe:
            self._evaluate_base(parts, journal)
        recorder = self._recorder = Recorder(
            plan=parts.plan,
            meters=self.meters,
            journal=journal,
            stop_file=self._folder.stop,
            evaluate=lambda step: self._evaluate(model, data, journal, step),
            evaluate_every=None if is_probe else config.evaluate.every_steps,
            probe=activity.Probe(model),
        )
        with self._phase("train", journal):
            LOOPS[config.trainer](config, parts.plan, data, model, parts.optimizer, parts.arguments, recorder)
        self._describe_training(recorder, parts)
        outcome = recorder.ending.outcome if recorder.ending else Outcome.COMPLETED
        if outcome in EVALUATED and not is_probe:
            self._found["eval_loss"] = self._evaluate(model, data, journal, recorder.steps)
            self._judge(parts, journal)
        if outcome is Outcome.COMPLETED and not is_probe:
            self._found["adapter_bytes"] = self._save(model)
        self._refuse_false_names()
        return self.result(outcome, recorder.ending.reason if recorder.ending else None)

    def _load(self, journal: Journal, cache_dir: Path) -> Parts:
        """Build everything that training needs."""
        set_seed(self.config.train.seed)
        with self._phase("load", journal):
            tokenizer = load_tokenizer(self.config.model)
            data = prepare_data(self.config, tokenizer, cache_dir)
            quality = prepare_quality(self.config, tokenizer, data.collator, cache_dir)
            work = self._plan(data)
            model = add_adapter(load_base(self.config, self.device), self.config)
            arguments = optimizers.training_arguments(self.config, work.steps, self._folder.path)
            optimizer = optimizers.build_optimizer(model, arguments)
            self._describe_model(model)
        return Parts(tokenizer, data, quality, work, model, arguments, optimizer)

    def _plan(self, data: PreparedData) -> Plan:
        return plan(self.config, data.train)

    def _describe_training(self, recorder: Recorder, parts: Parts) -> None:
        speed = recorder.speed(self.config.trial.warmup_steps)
        self._found |= utilization(parts.model, parts.optimizer, self.config, parts.plan, speed, self.device)
        self._found["optimizer_state_bytes"] = optimizers.state_bytes(parts.optimizer)
        self._active |= activity.step_activity(recorder.probe, recorder.updates)
        self._active |= activity.optimizer_activity(parts.optimizer)

    def _describe_model(self, model: nn.Module) -> None:
        trainable, total = parameter_counts(model)
        self._found |= {"trainable_parameters": trainable, "total_parameters": total}
        self._active |= activity.model_activity(model, self.config)

    def _evaluate(self, model: nn.Module, data: PreparedData, journal: Journal, step: int) -> float:
        with self._phase("eval", journal):
            loss = evaluation_loss(model, data, self.config, self.device)
        journal.write("eval", step=step, loss=loss)
        return loss

    def _evaluate_base(self, parts: Parts, journal: Journal) -> None:
        """What is measured before the first step."""
        self._found["eval_loss_before"] = self._evaluate(parts.model, parts.data, journal, 0)
        with self._phase("eval", journal):
            self._found |= parts.quality.before(parts.model, self.config, self.device)

    def _judge(self, parts: Parts, journal: Journal) -> None:
        """What the fine-tune did to the model besides its evaluation loss."""
        before = self._found.get("general_loss_before")
        with self._phase("eval", journal):
            self._found |= parts.quality.after(parts.model, self.config, self.device, before)

    def _save(self, model: nn.Module) -> int | None:
        size = save_adapter(model, self._folder.adapter)
        if not self.config.trial.keep_adapter:
            shutil.rmtree(self._folder.adapter, ignore_errors=True)
        return size

    def _refuse_false_names(self) -> None:
        wrong = claims.mismatches(self.config, self._active)
        if wrong:
            raise activity.NotActiveError(wrong, self.result(Outcome.CRASHED, "; ".join(wrong)))

    @contextmanager
    def _phase(self, name: str, journal: Journal) -> Iterator[None]:
        journal.write("phase", phase=name)
        with self.meters.phase(name):
            yield

    @contextmanager
    def _cache_dir(self) -> Iterator[Path]:
        if self._spec.cache_dir is not None:
            yield Path(self._spec.cache_dir)
            return
        with tempfile.TemporaryDirectory(prefix="sweeper-data-") as folder:
            yield Path(folder)

    def result(self, outcome: Outcome, reason: str | None, traceback: str | None = None) -> TrialResult:
        """The result as of now. After an exception it holds what was measured until then."""
        return TrialResult(
            outcome=outcome,
            reason=reason,
            measurements=self.measurements(),
            active=self._active,
            environment=environment.describe(self.device, self.meters.nvml),
            definitions={**self.meters.definitions, **claims.qualifications(self.config, self._active)},
            traceback=traceback,
            started_at=self._started_at,
            ended_at=datetime.now(UTC).isoformat(),
        )

    def measurements(self) -> Measurements:
        """What has been measured so far."""
        found = {**self._found, **self._steps(), **self._phases(), **self._predicted()}
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
        return {name: getattr(self._spec, name) for name in names}

    def _steps(self) -> dict[str, Any]:
        recorder = self._recorder
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
