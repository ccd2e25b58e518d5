"""One fine-tune, from its specification to its result: the recipe, read from top to bottom.

Nothing is caught here: exceptions belong to the process that runs the trial. What had been measured
until then is in `Trial.result`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import set_seed

from sweeper.contract.config import Config, from_dict
from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from trainers import proof
from trainers.data.batches import plan
from trainers.data.prepared import prepare_data
from trainers.evaluation.loss import evaluation_loss
from trainers.evaluation.quality import Quality, prepare_quality
from trainers.keeper import Keeper
from trainers.loops import LOOPS, Ending, Parts, Recorder
from trainers.meters import environment
from trainers.meters.journal import Journal
from trainers.meters.phases import Meters
from trainers.meters.utilization import utilization
from trainers.methods import optimizers, precision
from trainers.model.layers import count_parameters
from trainers.model.probe import Probe
from trainers.model.source import load_tokenizer
from trainers.record import Record
from trainers.setup import build_model, training_arguments

EVALUATED = (Outcome.COMPLETED, Outcome.PRUNED)
"""Outcomes of training after which the evaluation loss is taken."""


def run(spec: TrialSpec, folder: TrialFolder) -> TrialResult:
    """Carry out a trial. Raises NotActiveError when a method did not take effect, and whatever the
    libraries raise: torch's out of memory, an unreadable model, DataError …"""
    return Trial(spec, folder).run()


class Trial:
    """A trial in progress. Made first of all in its process: its level of memory is the zero."""

    def __init__(self, spec: TrialSpec, folder: TrialFolder, keeper: Keeper | None = None) -> None:
        """`keeper`: how a production run differs from a trial of a sweep."""
        environment.quiet_libraries()
        config = from_dict(spec.config)
        device = precision.device(config)
        precision.choose_float32_products(config)
        self._record = Record(spec, config, device, Meters(device))
        self._keeper = keeper or Keeper(folder)
        self._folder = folder

    @property
    def config(self) -> Config:
        """What is trained."""
        return self._record.config

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return self._record.device

    def result(self, outcome: Outcome, reason: str | None, traceback: str | None = None) -> TrialResult:
        """The result as of now. After an exception it holds what was measured until then."""
        return self._record.result(outcome, reason, traceback)

    def run(self) -> TrialResult:
        """Carry out the recipe. Raises as the module's `run` does."""
        self._keeper.take_up(self._record)
        elapsed_s = self._record.meters.elapsed_s
        with Journal(self._folder.progress, elapsed_s) as journal, self._cache_dir() as cache:
            return self._recipe(journal, cache)

    def _recipe(self, journal: Journal, cache_dir: Path) -> TrialResult:
        record, keeper = self._record, self._keeper
        parts, quality = self._load(journal, cache_dir)
        record.active |= keeper.describe(parts, cache_dir)
        is_probe = record.config.trial.probe_steps is not None
        if not is_probe and "eval_loss_before" not in record.found:
            self._evaluate_base(parts, quality, journal)
        recorder = record.recorder = self._recorder(parts, journal, is_probe)
        with self._phase("train", journal):
            LOOPS[record.config.trainer](parts, recorder)
        self._describe_training(recorder, parts, cache_dir)
        ending = recorder.ending
        outcome = ending.outcome if ending else Outcome.COMPLETED
        if outcome in EVALUATED and not is_probe:
            self._conclude(parts, quality, journal, recorder.steps)
        if outcome is Outcome.COMPLETED and not is_probe:
            record.found["adapter_bytes"] = keeper.save(parts, quality)
        return record.result(outcome, ending.reason if ending else None)

    def _load(self, journal: Journal, cache_dir: Path) -> tuple[Parts, Quality]:
        """Build everything that training needs, and what its result is judged on."""
        record = self._record
        set_seed(record.config.train.seed)
        with self._phase("load", journal):
            tokenizer = load_tokenizer(record.config.model)
            data = prepare_data(record.config, tokenizer, cache_dir)
            quality = prepare_quality(record.config, tokenizer, data.collator, cache_dir)
            config = record.config = self._keeper.configure(record.config, data)
            work = plan(config, data.train)
            model = build_model(config, record.device)
            self._describe_model(model)
            arguments = training_arguments(config, work.steps, self._folder.path)
            optimizer = optimizers.build_optimizer(model, arguments)
        return Parts(config, work, data, model, arguments, optimizer), quality

    def _recorder(self, parts: Parts, journal: Journal, is_probe: bool) -> Recorder:
        def evaluate(step: int) -> Ending | None:
            return self._keeper.keep(step, self._evaluate(parts, journal, step))

        probe = Probe(parts.model)
        return Recorder(
            plan=parts.plan,
            meters=self._record.meters,
            journal=journal,
            stop_file=self._folder.stop,
            evaluate=evaluate,
            evaluate_every=None if is_probe else parts.config.evaluate.every_steps,
            probe=probe,
            judge=lambda: self._describe_step(probe, parts.optimizer),
            attach=self._keeper.attach,
            **self._keeper.past_steps(),
        )

    def _describe_model(self, model: nn.Module) -> None:
        trainable, total = count_parameters(model)
        self._record.found |= {"trainable_parameters": trainable, "total_parameters": total}
        self._record.active |= proof.describe_model(model, self._record.config)
        self._refuse_false_names()

    def _describe_step(self, probe: Probe, optimizer: Optimizer) -> None:
        self._record.active |= proof.describe_step(probe) | proof.describe_optimizer(optimizer)
        self._refuse_false_names()

    def _describe_training(self, recorder: Recorder, parts: Parts, cache_dir: Path) -> None:
        record = self._record
        speed = recorder.speed(parts.config.trial.warmup_steps)
        record.found |= utilization(
            parts.model, parts.optimizer, parts.config, parts.plan, speed, record.device, cache_dir
        )
        record.found["optimizer_state_bytes"] = optimizers.state_bytes(parts.optimizer)
        record.active["weights_moved"] = recorder.probe.weights_moved() if recorder.updates else None
        self._describe_step(recorder.probe, parts.optimizer)

    def _evaluate(self, parts: Parts, journal: Journal, step: int) -> float:
        with self._phase("eval", journal):
            loss = evaluation_loss(parts.model, parts.data, parts.config, self._record.device)
        journal.write("eval", step=step, loss=loss)
        return loss

    def _evaluate_base(self, parts: Parts, quality: Quality, journal: Journal) -> None:
        """Measure what must be known before the first step."""
        record = self._record
        record.found["eval_loss_before"] = self._evaluate(parts, journal, 0)
        with self._phase("eval", journal):
            record.found |= quality.before(parts.model, parts.config, record.device)

    def _conclude(self, parts: Parts, quality: Quality, journal: Journal, step: int) -> None:
        """Take the evaluation loss, and what the fine-tune did to the model besides."""
        record, loss = self._record, self._keeper.last_loss(step)
        if loss is None:
            loss = self._evaluate(parts, journal, step)
            self._keeper.keep(step, loss)
        record.found["eval_loss"] = self._keeper.choose_weights(parts.model, loss)
        before = record.found.get("general_loss_before")
        with self._phase("eval", journal):
            record.found |= quality.after(parts.model, parts.config, record.device, before)

    def _refuse_false_names(self) -> None:
        """End the trial when a method is not among what was found active so far."""
        wrong = proof.find_mismatches(self._record.config, self._record.active)
        if wrong:
            raise proof.NotActiveError(wrong, self.result(Outcome.CRASHED, "; ".join(wrong)))

    @contextmanager
    def _phase(self, name: str, journal: Journal) -> Iterator[None]:
        journal.write("phase", phase=name)
        with self._record.meters.phase(name):
            yield

    @contextmanager
    def _cache_dir(self) -> Iterator[Path]:
        given = self._record.spec.cache_dir
        if given is not None:
            yield Path(given)
            return
        with tempfile.TemporaryDirectory(prefix="sweeper-data-") as folder:
            yield Path(folder)
