"""The steps of a trial under the meter: forward and loss, backward, optimizer step, evaluation.

The loops, the adapter, the optimizer and the evaluation are those that train. A dry run gives them fake
tensors and batches of a given length; a counted run gives them the real ones.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sweeper.contract.config import BatchConfig, Config
from trainers.data.batches import Batch, BatchSizes, Plan, batch_sizes
from trainers.evaluation.loss import evaluation_batch, evaluation_loss
from trainers.loops import LOOPS, Parts
from trainers.memory.fakes import fake_tensors
from trainers.memory.kernels import constants
from trainers.memory.storages import BETWEEN, StorageMeter
from trainers.methods.optimizers import act_as_on_cuda, build_optimizer, state_tensors
from trainers.model.layers import dtype_name, has_adapter
from trainers.setup import training_arguments


@dataclass(frozen=True)
class BatchShape:
    """A batch that may set the peak of a trial, and what lies in memory beside it."""

    length: int
    """Tokens of the longest sequence in it."""
    padded: bool
    """Whether it holds shorter sequences too: then there is an attention mask."""
    eval_length: int
    eval_padded: bool
    eval_sequences: int | None = None
    """Sequences of the longest evaluation batch; None: as many as one may hold."""
    has_gradients: bool = True
    """Whether it comes after another pass of its optimizer step, whose gradients lie beside it."""
    has_state: bool = True
    """Whether it comes after an optimizer step, whose state lies beside it."""


def describe_model(model: nn.Module, meter: StorageMeter) -> None:
    """Count what a built model holds, by kind."""
    for weight in model.parameters():
        kind = (
            "adapter"
            if weight.requires_grad and has_adapter(model)
            else f"weights {dtype_name(weight.dtype)}"
        )
        meter.adopt([weight], kind)
    meter.adopt(constants(model), "quantisation constants")
    meter.adopt(model.buffers(), "buffers")


@contextmanager
def watched(model: nn.Module, optimizer: Optimizer, meter: StorageMeter) -> Iterator[None]:
    """Tell the meter which phase runs and what kind of storage it makes."""
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    meter.kind_of = lambda func, args, tensor: _kind(func, args, tensor, vocabulary)

    def before_forward(module: nn.Module, arguments: Any) -> None:
        meter.enter("forward" if module.training else "evaluation", "activations")

    def after_forward(module: nn.Module, arguments: Any, output: Any) -> None:
        if module.training:
            meter.enter("backward", "temporary")
        else:
            meter.enter(BETWEEN, "other")  # what comes next is no evaluation

    def after_gradient(weight: torch.Tensor) -> None:
        if weight.grad is not None:
            meter.adopt([weight.grad], "gradients")

    def after_step(*_: Any) -> None:
        meter.adopt(state_tensors(optimizer), "optimizer state")
        meter.enter(BETWEEN, "other")

    handles: list[RemovableHandle] = [
        model.register_forward_pre_hook(before_forward),
        model.register_forward_hook(after_forward),
        optimizer.register_step_pre_hook(lambda *_: meter.enter("optimizer step", "temporary")),
        optimizer.register_step_post_hook(after_step),
        *(
            weight.register_post_accumulate_grad_hook(after_gradient)  # type: ignore[no-untyped-call]
            for weight in model.parameters()
            if weight.requires_grad
        ),
    ]
    try:
        yield
    finally:
        meter.enter(BETWEEN, "other")
        for handle in handles:
            handle.remove()


def _kind(func: Any, args: tuple[Any, ...], tensor: torch.Tensor, vocabulary: int) -> str | None:
    """Kinds that show in the tensor itself: logits by their width, autocast's copies by their origin."""
    if tensor.dim() > 1 and tensor.shape[-1] == vocabulary:
        return "logits and loss"
    if func is torch.ops.aten._to_copy.default and isinstance(args[0], nn.Parameter):
        return "autocast copies of weights"
    return None


@dataclass
class SilentRecorder:
    """Takes the place of `trainers.loops.recorder.Recorder` in a loop whose figures do not matter."""

    on_begin: Callable[[], None] = lambda: None
    steps: int = 0

    def begin(self, *_: Any) -> bool:
        """Go on."""
        self.on_begin()
        return True

    def end(self, *_: Any) -> bool:
        """Go on."""
        return True


class _Sequences:
    """As many sequences as are asked for; the collator makes their batch."""

    def __init__(self, count: int) -> None:
        self.targets = np.ones(count, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> int:
        return index


@dataclass
class _Collator:
    """Batches of the longest length. They are made inside the dry run, so they are fake."""

    length: int

    def __call__(self, sequences: Sequence[int]) -> Batch:
        shape = (len(sequences), self.length)
        names = ("input_ids", "attention_mask", "labels")
        return {name: torch.ones(shape, dtype=torch.int64) for name in names}


@dataclass
class _Data:
    train: _Sequences
    eval: _Sequences
    collator: _Collator


def dry_run(
    config: Config,
    shape: BatchShape,
    meter: StorageMeter,
    set_padded: Callable[[bool], None],
    on_cuda: bool,
    build: Callable[[Config], nn.Module],
) -> tuple[nn.Module, Optimizer]:
    """Load, one evaluation batch and one pass in its steady state, on fake tensors; model and optimizer.

    `set_padded` is told whether the batches that come have padding. With `on_cuda` torch's optimizers work
    on all weights at once, and paged state lies in managed memory.
    """
    sizes = batch_sizes(config.batch)
    one_pass = BatchConfig(sizes.micro, sizes.micro, 1)
    config = dataclasses.replace(config, batch=one_pass)
    with fake_tensors(), meter:
        with meter.during("load", "weights"):
            model = build(config)
            describe_model(model, meter)
            arguments = training_arguments(config, 1, Path("unused"))
            optimizer = build_optimizer(model, arguments)
            if on_cuda:
                act_as_on_cuda(optimizer, meter.aside)
        with watched(model, optimizer, meter):
            _take_first_step(model, optimizer, meter)
            state, optimizer.state = optimizer.state, defaultdict(dict)  # a trial's loop begins without
            evaluation = evaluation_batch(config)
            if shape.eval_sequences is not None:
                evaluation = min(evaluation, shape.eval_sequences)
            data: Any = _Data(_Sequences(sizes.micro), _Sequences(evaluation), _Collator(shape.eval_length))
            set_padded(shape.eval_padded)
            evaluation_loss(model, data, config, torch.device("cpu"))
            set_padded(shape.padded)
            data.collator = _Collator(shape.length)

            def begin() -> None:
                if shape.has_state:
                    optimizer.state.update(state)
                state.clear()
                if shape.has_gradients and sizes.accumulation > 1:
                    _give_gradients(model, meter)

            recorder: Any = SilentRecorder(begin)
            work = Plan(BatchSizes(sizes.micro, 1), list(range(sizes.micro)), [1], [1], [[1]])
            LOOPS[config.trainer](Parts(config, work, data, model, arguments, optimizer), recorder)
    return model, optimizer


def _give_gradients(model: nn.Module, meter: StorageMeter) -> None:
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight)
            meter.adopt([weight.grad], "gradients")


def _take_first_step(model: nn.Module, optimizer: Optimizer, meter: StorageMeter) -> None:
    """Make the optimizer's state, so that what follows is a step like all later ones."""
    _give_gradients(model, meter)
    optimizer.step()
    optimizer.zero_grad()
    meter.peaks.pop("optimizer step", None)
