"""A configuration run for real: a trial that writes checkpoints, goes on from the last one, keeps the
weights that evaluate best, stops when they no longer improve, and leaves a model.

What a killed run had done since its last checkpoint is done again, with the same losses on a CPU.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from sweeper.contract.config import Config
from sweeper.contract.folder import ProductionFolder, TrialFolder
from sweeper.contract.json_files import write_json
from sweeper.contract.trial import Outcome, TrialSpec
from trainers.data.batches import batch_sizes
from trainers.data.fingerprints import model_fingerprint
from trainers.data.prepared import PreparedData
from trainers.evaluation.quality import Quality
from trainers.keeper import Keeper
from trainers.loops import Ending, Parts, Recorder, Training
from trainers.meters import readers
from trainers.meters.journal import progress_line
from trainers.meters.phases import NOT_OF_A_TRIAL
from trainers.methods.adapters import save_adapter
from trainers.model.source import model_path
from trainers.production.checkpoints import Checkpoints
from trainers.record import Record
from trainers.setup import portable_arguments
from trainers.trial import Trial


def open_production(spec: TrialSpec, folder: TrialFolder) -> Trial:
    """The production run of a folder, at its beginning or at its last checkpoint."""
    production = spec.config["production"]
    return Trial(spec, folder, ProductionKeeper(folder, production["keep_checkpoints"]))


class ProductionKeeper(Keeper):
    """Writes a checkpoint after each evaluation, and goes on from the last one."""

    def __init__(self, folder: TrialFolder, keep_checkpoints: int) -> None:
        super().__init__(folder)
        self._production = ProductionFolder(folder.path)
        self._checkpoints = Checkpoints(self._production.checkpoints, keep_checkpoints)
        self._resumed = self._checkpoints.latest()
        self._record: Record
        self._training: Training | None = None
        self._evaluations: list[tuple[int, float]] = []
        """Step and evaluation loss of each checkpoint."""

    def take_up(self, record: Record) -> None:
        """Time, peaks and evaluations go on from those of the checkpoint."""
        self._record = record
        trim_progress(self.folder, self._resumed.step if self._resumed else 0)
        if self._resumed is None:
            return
        facts = self._resumed.facts
        record.meters.resume(facts["elapsed_s"], facts["phases"])
        self._evaluations = [(step, loss) for step, loss in facts["evaluations"]]
        record.found |= facts["found"]
        record.active["resumed_at_steps"] = [*facts["resumed_at_steps"], self._resumed.step]

    def configure(self, config: Config, data: PreparedData) -> Config:
        """As many steps as the epochs need, and an evaluation for each checkpoint."""
        production, sizes = config.production, batch_sizes(config.batch)
        steps = production.steps or math.ceil(production.epochs * len(data.train) / sizes.effective)
        return dataclasses.replace(
            config,
            train=dataclasses.replace(config.train, steps=steps, token_budget=None),
            evaluate=dataclasses.replace(config.evaluate, every_steps=production.checkpoint_every_steps),
        )

    def describe(self, parts: Parts, cache_dir: Path) -> dict[str, Any]:
        """Which data and which model it was."""
        model = parts.config.model
        return {
            "data_fingerprint": parts.data.fingerprint,
            "model_fingerprint": model_fingerprint(model, model_path(model), cache_dir),
        }

    def past_steps(self) -> dict[str, Any]:
        """The steps of the progress file."""
        facts = self._resumed.facts if self._resumed else {}
        lines = [line for line in self.folder.read_progress() if line.event == "step"]
        return {
            "times_s": [line.step_time_s or 0.0 for line in lines],
            "losses": [math.nan if line.loss is None else line.loss for line in lines],
            "skipped_steps": facts.get("skipped_steps", 0),
            "updates": facts.get("updates", 0),
        }

    def attach(self, training: Training) -> Ending | None:
        """Bring the training to where it was; it may have ended there."""
        self._training = training
        if self._resumed:
            with self._checkpointing():
                self._resumed.restore(training)
        return self._early_stop()

    def keep(self, step: int, loss: float) -> Ending | None:
        """Write a checkpoint, and end the training when it no longer improves."""
        assert self._training is not None and self._record.recorder is not None
        recorder = self._record.recorder
        self._evaluations.append((step, loss))
        with self._checkpointing():
            recorder.journal.sync()  # a resumed run reads its steps there
            self._checkpoints.save(self._training, step, self._facts(recorder))
            self._checkpoints.prune(self._best()[0])
        return self._early_stop()

    def _facts(self, recorder: Recorder) -> dict[str, Any]:
        return {
            **self._record.meters.state(),
            "evaluations": self._evaluations,
            "found": self._record.found,
            "resumed_at_steps": self._record.active.get("resumed_at_steps", []),
            "skipped_steps": recorder.skipped_steps,
            "updates": recorder.updates,
        }

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Time and memory that a trial does not take. What was freed goes back to the system, else the
        next phase would count it on a CPU."""
        with self._record.meters.phase(NOT_OF_A_TRIAL):
            yield
            readers.release_freed()

    def _best(self) -> tuple[int, float]:
        """Step and loss of the lowest evaluation, the earliest of equals."""
        return min(self._evaluations, key=lambda evaluation: evaluation[1])

    def _early_stop(self) -> Ending | None:
        """Why no further step is taken, once the last evaluations brought no improvement."""
        patience = self._record.config.production.patience
        if patience is None or len(self._evaluations) <= patience:
            return None
        (step, lowest), last = self._best(), self._evaluations[-1][0]
        if self._evaluations[-patience - 1][0] < step:
            return None
        reason = (
            f"stopped after step {last}: the evaluation loss has not fallen below the {lowest:.4f} of step "
            f"{step} in {patience} evaluations (production.patience)"
        )
        return Ending(Outcome.COMPLETED, reason)

    def last_loss(self, step: int) -> float | None:
        """The loss of the last checkpoint, where that is the last step's."""
        last_step, loss = self._evaluations[-1] if self._evaluations else (-1, None)
        return loss if last_step >= step else None

    def choose_weights(self, model: nn.Module, loss: float) -> float:
        """The weights that evaluated best."""
        step, lowest = self._best()
        with self._checkpointing():
            self._checkpoints.at(step).restore_weights(model)
        self._record.active["best_step"] = step
        return lowest

    def save(self, parts: Parts, quality: Quality) -> int | None:
        """The model, its tokenizer and its training arguments; size of the adapter if it is one."""
        folder = self._production.model
        shutil.rmtree(folder, ignore_errors=True)
        size = save_adapter(parts.model, folder)
        if isinstance(parts.model, PreTrainedModel) and not isinstance(parts.model, PeftModel):
            parts.model.config.use_cache = True  # it was off for training
            parts.model.save_pretrained(folder)
        quality.tokenizer.save_pretrained(folder)
        write_json(folder / "training_args.json", portable_arguments(parts.config, parts.plan.steps))
        return size


def trim_progress(folder: TrialFolder, steps: int) -> None:
    """Cut the progress file after the checkpoint of `steps`: what came later is done again."""
    if not folder.progress.exists():
        return
    kept = []
    for line in folder.read_progress() if steps else []:
        if line.event == "step" and line.step > steps:
            break
        kept.append(line)
    temporary = folder.progress.with_suffix(".new")
    temporary.write_text("".join(map(progress_line, kept)), encoding="utf-8")
    os.replace(temporary, folder.progress)
