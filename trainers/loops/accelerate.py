"""The training loop on Accelerate, written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from transformers import TrainingArguments, set_seed

from sweeper.contract.config import Config
from trainers.data.batches import Batch, Plan, loader
from trainers.data.prepared import PreparedData
from trainers.loops.keeper import Keeper, Training
from trainers.loops.recorder import Recorder
from trainers.methods.optimizers import build_scheduler
from trainers.methods.precision import mixed_precision


def train(
    config: Config,
    plan: Plan,
    data: PreparedData,
    model: nn.Module,
    optimizer: Optimizer,
    arguments: TrainingArguments,
    recorder: Recorder,
    keeper: Keeper | None = None,
) -> None:
    """Carry out the plan, step by step, until it is done or the recorder says stop.

    With a `keeper` it goes on after the last step that is kept, and can be kept after each.

    The loss of a step is the sum over its target tokens divided by their number in the whole effective
    batch: gradients equal those of one large batch, however it is cut into micro batches.
    """
    accelerator = Accelerator(cpu=arguments.use_cpu, mixed_precision=mixed_precision(config))
    wrapped, stepper = accelerator.prepare(model, optimizer)
    scheduler = build_scheduler(optimizer, arguments)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    set_seed(config.train.seed)
    wrapped.train()
    stepper.train()
    first = keeper.steps if keeper else 0
    batches = _on_device(plan, data, accelerator.device, first)
    if keeper is not None:  # last of all: making the batches' iterator draws random numbers
        keeper.attach(Training(model, optimizer, scheduler, accelerator.scaler))
    recorder.begin()
    for targets in plan.micro_targets[first:]:
        loss = _accumulate(accelerator, wrapped, batches, targets)
        grad_norm = _clip(accelerator, parameters, config.train.max_grad_norm)
        stepper.step()
        learning_rate = float(scheduler.get_last_lr()[0])
        skipped = accelerator.optimizer_step_was_skipped
        if not skipped:
            scheduler.step()
        stepper.zero_grad()
        if not recorder.end(loss, learning_rate, grad_norm, skipped):
            break


def _accumulate(
    accelerator: Accelerator, model: nn.Module, batches: Iterator[Batch], targets: list[int]
) -> torch.Tensor:
    """Add up the gradients of one effective batch; its loss per target token, on the device."""
    total = torch.zeros((), device=accelerator.device)
    in_step = sum(targets)
    for count in targets:
        loss = model(**next(batches)).loss * (count / in_step)
        accelerator.backward(loss)
        total += loss.detach()
        del loss  # else what quantised layers keep outside of the saved tensors lives into the next pass
    return total


def _clip(accelerator: Accelerator, parameters: list[nn.Parameter], max_norm: float) -> Any:
    return accelerator.clip_grad_norm_(parameters, max_norm) if max_norm > 0 else None


def _on_device(plan: Plan, data: PreparedData, device: torch.device, first: int = 0) -> Iterator[Batch]:
    """The batches of the steps after the first `first`."""
    pinned, indices = device.type == "cuda", plan.indices[first * plan.sizes.effective :]
    batches = iter(loader(data.train, indices, plan.sizes.micro, data.collator, pin_memory=pinned))
    return ({name: each.to(device, non_blocking=pinned) for name, each in batch.items()} for batch in batches)
