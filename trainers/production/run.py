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

from peft import PeftModel
from transformers import PreTrainedModel

from sweeper.contract.folder import ProductionFolder, TrialFolder
from sweeper.contract.json_files import write_json
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from trainers.data.batches import Plan, batch_sizes, plan
from trainers.data.fingerprints import model_fingerprint
from trainers.data.prepared import PreparedData
from trainers.loops import accelerate as accelerate_loop
from trainers.loops.keeper import Training
from trainers.loops.recorder import Ending, Recorder
from trainers.meters import readers as memory_meters
from trainers.meters.journal import Journal, progress_line
from trainers.meters.phases import NOT_OF_A_TRIAL, PhaseRecord
from trainers.methods import active as activity
from trainers.methods.adapters import save_adapter
from trainers.methods.model import model_path
from trainers.methods.optimizers import portable_arguments
from trainers.production.checkpoints import Checkpoint, Checkpoints
from trainers.trial import Parts, Trial


class Production(Trial):
    """A production run in progress, from its beginning or from its last checkpoint."""

    def __init__(self, spec: TrialSpec, folder: TrialFolder) -> None:
        super().__init__(spec, folder)
        self._production = ProductionFolder(folder.path)
        self._checkpoints = Checkpoints(self._production.checkpoints, self.config.production.keep_checkpoints)
        self._resumed = self._checkpoints.latest()
        self._training: Training | None = None
        self._evaluations: list[tuple[int, float]] = []
        """Step and evaluation loss of each checkpoint."""

    def run(self) -> TrialResult:
        """Do what is left to do. Raises as `trial.run` does."""
        trim_progress(self._folder, self.steps)
        if self._resumed:
            self._take_up(self._resumed)
        return super().run()

    @property
    def steps(self) -> int:
        """Optimizer steps that were done when this process began."""
        return self._resumed.step if self._resumed else 0

    def attach(self, training: Training) -> None:
        """Bring the training to where it was."""
        self._training = training
        if self._resumed:
            with self._checkpointing():
                self._resumed.restore(training)

    def _take_up(self, checkpoint: Checkpoint) -> None:
        """Time, peaks and evaluations go on from those of the checkpoint."""
        facts = checkpoint.facts
        self.meters.started_s -= facts["elapsed_s"]
        self.meters.phases = {name: PhaseRecord(**phase) for name, phase in facts["phases"].items()}
        self._evaluations = [(step, loss) for step, loss in facts["evaluations"]]
        self._found |= facts["found"]
        self._active["resumed_at_steps"] = [*facts["resumed_at_steps"], checkpoint.step]

    def _plan(self, data: PreparedData) -> Plan:
        production, sizes = self.config.production, batch_sizes(self.config.batch)
        steps = production.steps or math.ceil(production.epochs * len(data.train) / sizes.effective)
        train = dataclasses.replace(self.config.train, steps=steps, token_budget=None)
        self.config = dataclasses.replace(self.config, train=train)
        work = plan(self.config, data.train)
        return work.until(self.steps) if self._early_stop() else work

    def _recipe(self, journal: Journal, cache_dir: Path) -> TrialResult:
        parts = self._load(journal, cache_dir)
        self._active["data_fingerprint"] = parts.data.fingerprint
        self._active["model_fingerprint"] = model_fingerprint(
            self.config.model, model_path(self.config.model), cache_dir
        )
        if self._resumed is None:
            self._evaluate_base(parts, journal)
        recorder = self._recorder = self._recording(parts, journal)
        with self._phase("train", journal):
            accelerate_loop.train(
                self.config,
                parts.plan,
                parts.data,
                parts.model,
                parts.optimizer,
                parts.arguments,
                recorder,
                keeper=self,
            )
        self._describe_training(recorder, parts)
        ending = recorder.ending or self._early_stop()
        outcome = ending.outcome if ending else Outcome.COMPLETED
        if outcome is Outcome.COMPLETED:
            self._conclude(parts, journal)
        self._refuse_false_names()
        return self.result(outcome, ending.reason if ending else None)

    def _recording(self, parts: Parts, journal: Journal) -> Recorder:
        """A recorder that knows the steps of the progress file, and keeps the training at checkpoints."""
        facts = self._resumed.facts if self._resumed else {}
        lines = [line for line in self._folder.read_progress() if line.event == "step"]
        return Recorder(
            plan=parts.plan,
            meters=self.meters,
            journal=journal,
            stop_file=self._folder.stop,
            evaluate=lambda step: self._keep(parts, journal, step),
            evaluate_every=self.config.production.checkpoint_every_steps,
            probe=activity.Probe(parts.model),
            times_s=[line.step_time_s or 0.0 for line in lines],
            losses=[math.nan if line.loss is None else line.loss for line in lines],
            skipped_steps=facts.get("skipped_steps", 0),
            updates=facts.get("updates", 0),
        )

    def _keep(self, parts: Parts, journal: Journal, step: int) -> float:
        """Evaluate, write a checkpoint, and end the training when it no longer improves."""
        assert self._training is not None and self._recorder is not None
        loss = self._evaluate(parts.model, parts.data, journal, step)
        self._evaluations.append((step, loss))
        with self._checkpointing():
            journal.sync()  # a resumed run reads its steps there
            self._checkpoints.save(self._training, step, self._facts(self._recorder))
            self._checkpoints.prune(self._best()[0])
        self._recorder.ending = self._early_stop()
        return loss

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Time and memory that a trial does not take. What was freed goes back to the system, else the
        next phase would count it on a CPU."""
        with self.meters.phase(NOT_OF_A_TRIAL):
            yield
            memory_meters.release_freed()

    def _facts(self, recorder: Recorder) -> dict[str, object]:
        return {
            "elapsed_s": self.meters.elapsed_s(),
            "phases": {name: dataclasses.asdict(phase) for name, phase in self.meters.phases.items()},
            "evaluations": self._evaluations,
            "found": self._found,
            "resumed_at_steps": self._active.get("resumed_at_steps", []),
            "skipped_steps": recorder.skipped_steps,
            "updates": recorder.updates,
        }

    def _best(self) -> tuple[int, float]:
        """Step and loss of the lowest evaluation, the earliest of equals."""
        return min(self._evaluations, key=lambda evaluation: evaluation[1])

    def _early_stop(self) -> Ending | None:
        """Why no further step is taken, once the last evaluations brought no improvement."""
        patience = self.config.production.patience
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

    def _conclude(self, parts: Parts, journal: Journal) -> None:
        """Leave the weights that evaluated best."""
        assert self._recorder is not None
        if not self._evaluations or self._evaluations[-1][0] < self._recorder.steps:
            self._keep(parts, journal, self._recorder.steps)
        step, self._found["eval_loss"] = self._best()
        with self._checkpointing():
            self._checkpoints.at(step).restore_weights(parts.model)
        self._active["best_step"] = step
        self._judge(parts, journal)
        self._found["adapter_bytes"] = self._save_all(parts)

    def _save_all(self, parts: Parts) -> int | None:
        """The model, its tokenizer and its training arguments; size of the adapter if it is one."""
        folder = self._production.model
        shutil.rmtree(folder, ignore_errors=True)
        size = save_adapter(parts.model, folder)
        if isinstance(parts.model, PreTrainedModel) and not isinstance(parts.model, PeftModel):
            parts.model.config.use_cache = True  # it was off for training
            parts.model.save_pretrained(folder)
        parts.tokenizer.save_pretrained(folder)
        steps = self.config.train.steps
        assert steps is not None
        write_json(folder / "training_args.json", portable_arguments(self.config, steps))
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
