"""The same training through `TrainingArguments` and `transformers.Trainer`."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from trainers.data.batches import OrderedExamples, Plan
from trainers.loops.parts import Parts, Training
from trainers.loops.recorder import Recorder
from trainers.methods.optimizers import build_scheduler


def train(parts: Parts, recorder: Recorder) -> None:
    """Carry out the plan, step by step, until it is done or the recorder says stop."""
    scheduler = build_scheduler(parts.optimizer, parts.arguments)
    trainer = PlannedTrainer(
        parts.plan,
        model=parts.model,
        args=parts.arguments,
        train_dataset=OrderedExamples(parts.data.train, parts.plan.indices),
        data_collator=parts.data.collator,
        optimizers=(parts.optimizer, scheduler),
    )
    trainer.remove_callback(PrinterCallback)
    training = Training(parts.model, parts.optimizer, scheduler)
    trainer.add_callback(_RecorderCallback(trainer, recorder, training))
    trainer.train()


class PlannedTrainer(Trainer):
    """A Trainer that takes its examples in the order of the plan and shows the loss of each step.

    Each micro batch counts by its share of the step's target tokens, as in the loop on Accelerate. Trainer
    leaves that to the model's class, and averages micro batches where the class does not do it.
    """

    def __init__(self, plan: Plan, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = False
        # versions without this switch divide by the number of micro batches, whatever a subclass does
        self._is_divided = not hasattr(self, "loss_is_scaled_for_ga")
        self.loss_is_scaled_for_ga = True
        self._shares = (count / sum(targets) for targets in plan.micro_targets for count in targets)
        self.step_loss: Any = 0.0
        self.step_grad_norm: Any = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        ordered: Any = self.train_dataset
        return SequentialSampler(ordered)

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        """The loss of a micro batch, weighed by its target tokens."""
        loss: Any = super().compute_loss(*arguments, **options)
        weighed = loss * next(self._shares)
        return weighed * self.current_gradient_accumulation_steps if self._is_divided else weighed

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """One micro batch; its share of the step's loss is added up on the device."""
        loss: torch.Tensor = super().training_step(*arguments, **options)
        self.step_loss = self.step_loss + loss
        return loss

    def _get_grad_norm(self, *arguments: Any, **options: Any) -> Any:
        # Trainer passes the norm to its own log only
        self.step_grad_norm = super()._get_grad_norm(*arguments, **options)  # type: ignore[no-untyped-call]
        return self.step_grad_norm


class _RecorderCallback(TrainerCallback):
    def __init__(self, trainer: PlannedTrainer, recorder: Recorder, training: Training) -> None:
        self._trainer = trainer
        self._recorder = recorder
        self._training = training
        self._learning_rate = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._recorder.begin(self._training)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        scheduler: Any = self._trainer.lr_scheduler
        self._learning_rate = float(scheduler.get_last_lr()[0])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer = self._trainer
        skipped = trainer.accelerator.optimizer_step_was_skipped
        go_on = self._recorder.end(trainer.step_loss, self._learning_rate, trainer.step_grad_norm, skipped)
        trainer.step_loss = 0.0
        control.should_training_stop = control.should_training_stop or not go_on
