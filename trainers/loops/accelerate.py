"""The training loop on Accelerate, written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import set_seed

from trainers.data.batches import Batch, loader
from trainers.loops.parts import Parts, Training
from trainers.loops.recorder import Recorder
from trainers.methods.optimizers import build_scheduler
from trainers.methods.precision import mixed_precision


def train(parts: Parts, recorder: Recorder) -> None:
    """Carry out the plan after the steps that the recorder knows, until it is done or the recorder says stop.

    The loss of a step is the sum over its target tokens divided by their number in the whole effective
    batch: gradients equal those of one large batch, however it is cut into micro batches.
    """
    config, model, optimizer = parts.config, parts.model, parts.optimizer
    accelerator = Accelerator(cpu=parts.arguments.use_cpu, mixed_precision=mixed_precision(config))
    wrapped, stepper = accelerator.prepare(model, optimizer)
    scheduler = build_scheduler(optimizer, parts.arguments)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    set_seed(config.train.seed)
    wrapped.train()
    stepper.train()
    done = recorder.steps
    batches = _on_device(parts, accelerator.device, done)
    # last of all: making the batches' iterator draws random numbers
    go_on = recorder.begin(Training(model, optimizer, scheduler, accelerator.scaler))
    for targets in parts.plan.micro_targets[done:] if go_on else ():
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


def _on_device(parts: Parts, device: torch.device, done: int = 0) -> Iterator[Batch]:
    """The batches of the steps after the first `done`."""
    plan, data, pinned = parts.plan, parts.data, device.type == "cuda"
    indices = plan.indices[done * plan.sizes.effective :]
    batches = iter(loader(data.train, indices, plan.sizes.micro, data.collator, pin_memory=pinned))
    return ({name: each.to(device, non_blocking=pinned) for name, each in batch.items()} for batch in batches)
