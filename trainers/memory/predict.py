"""A configuration -> its predicted peak memory, with its parts."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.optim import Optimizer

from sweeper.contract.config import Config
from sweeper.contract.prediction import MemoryPrediction
from trainers.data.batches import batch_sizes
from trainers.memory.allocator import CachingAllocator, cuda_block_bytes
from trainers.memory.fakes import fake_base
from trainers.memory.kernels import cuda_kernels, inner_bytes, replies
from trainers.memory.resident import private_bytes, resident_bytes
from trainers.memory.steps import BatchShape, dry_run
from trainers.memory.storages import Peak, StorageMeter
from trainers.meters.work import step_work
from trainers.methods.adapters import add_adapter
from trainers.methods.model import load_config


class PredictionError(RuntimeError):
    """The dry run could not be carried out; the message names the operation that failed."""


def predict(
    config: Config,
    shapes: Sequence[BatchShape],
    on_cuda: bool,
    build: Callable[[Config], nn.Module] | None = None,
    notes: Sequence[str] = (),
    tokens_per_step: float | None = None,
) -> MemoryPrediction:
    """Predict the peak of a trial of `config` whose largest batches are among `shapes`.

    `build` makes the model where it is not the causal language model of `config`; `tokens_per_step` are
    those of an average step, padding included. Raises PredictionError.
    """
    tokens = tokens_per_step or batch_sizes(config.batch).effective * shapes[0].length
    found = [_predict(config, shape, on_cuda, build, tokens) for shape in shapes]
    highest = max(found, key=lambda prediction: prediction.peak_bytes)
    phases = {phase: max(each.phases.get(phase, 0) for each in found) for phase in highest.phases}
    return dataclasses.replace(
        highest,
        phases=phases,
        reserved_bytes=_highest([each.reserved_bytes for each in found]),
        resident_bytes=_highest([each.resident_bytes for each in found]),
        private_bytes=_highest([each.private_bytes for each in found]),
        notes=tuple(notes),
    )


def _highest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _predict(
    config: Config,
    shape: BatchShape,
    on_cuda: bool,
    build: Callable[[Config], nn.Module] | None,
    tokens_per_step: float,
) -> MemoryPrediction:
    build = build or _builder(config)
    allocator = CachingAllocator() if on_cuda else None
    padded = [False]
    meter = StorageMeter(
        replies=replies(lambda: padded[0]),
        inner_bytes=inner_bytes(on_cuda),
        rounded=cuda_block_bytes if on_cuda else None,
        on_change=allocator.change if allocator else None,
    )

    def set_padded(value: bool) -> None:
        # FlashAttention-2 takes the lengths of sequences and no mask
        padded[0] = value and config.attention != "flash_attention_2"

    try:
        with _quietly(), cuda_kernels() if on_cuda else nullcontext():
            model, optimizer = dry_run(_on_fake_cpu(config), shape, meter, set_padded, on_cuda, build)
    except Exception as error:
        raise PredictionError(_failure(error, _place(meter))) from error
    found = as_prediction(meter.peaks, allocator)
    length = tokens_per_step / batch_sizes(config.batch).effective
    small_bytes = meter.made_small_bytes.get("forward", 0)
    return dataclasses.replace(
        found,
        longest_tokens=shape.length,
        micro=config.batch.sequences,
        resident_bytes=None if on_cuda else resident_bytes(config, model, found.phases, small_bytes),
        private_bytes=None if on_cuda else private_bytes(config, model, found.phases, small_bytes),
        paged_bytes=meter.aside_bytes if _is_paged(optimizer) and on_cuda else None,
        work=step_work(model, optimizer, config, tokens_per_step, length),
    )


def _is_paged(optimizer: Optimizer) -> bool:
    return bool(getattr(optimizer, "is_paged", False))


def _builder(config: Config) -> Callable[[Config], nn.Module]:
    """Makes a trial's model. Raises PredictionError when its configuration cannot be read."""
    try:
        loaded = load_config(config.model)
    except (OSError, ValueError) as error:
        raise PredictionError(_failure(error, "while the configuration was read")) from error
    return lambda asked: add_adapter(fake_base(asked, loaded), asked)


@contextmanager
def _quietly() -> Iterator[None]:
    """The trial itself will warn of what libraries find odd; fake tensors are odd to some of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _on_fake_cpu(config: Config) -> Config:
    """The dry run's tensors say they are on a CPU. fp16 and tf32 need CUDA, and others take the same bytes."""
    precision = {"fp16": "bf16", "tf32": "fp32"}.get(config.precision, config.precision)
    return dataclasses.replace(
        config, precision=precision, trial=dataclasses.replace(config.trial, device="cpu")
    )


def _place(meter: StorageMeter) -> str:
    if meter.last_operation is None:
        return "while the model was built"
    if meter.last_phase == "load":
        return f"while the model was built (last operation: {meter.last_operation})"
    return f"in phase {meter.last_phase!r} at {meter.last_operation}"


def _failure(error: BaseException, place: str) -> str:
    text = " ".join(str(error).split())[:300]
    return f"the dry run failed {place}: {type(error).__name__}: {text}"


def as_prediction(peaks: dict[str, Peak], allocator: CachingAllocator | None) -> MemoryPrediction:
    """The peaks of a meter as a record."""
    phase, peak = max(peaks.items(), key=lambda item: item[1].total_bytes)
    parts = {kind: size for kind, size in sorted(peak.parts.items(), key=lambda item: -item[1]) if size}
    return MemoryPrediction(
        peak_bytes=peak.total_bytes,
        phase=phase,
        parts=parts,
        phases={name: found.total_bytes for name, found in peaks.items()},
        reserved_bytes=allocator.peak_reserved_bytes if allocator else None,
        device="cuda" if allocator else "cpu",
    )


def on_cuda(config: Config) -> bool:
    """Whether trials of `config` run on CUDA here."""
    return config.trial.device == "cuda" or (config.trial.device == "auto" and torch.cuda.is_available())
