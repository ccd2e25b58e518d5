"""How long the batches of a trial get: as its tokenised data says where there is some, else the longest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.schema import DEFAULT_STEPS, Config
from trainers.batches import Examples, batch_sizes, plan
from trainers.data import DataError, prepare_data
from trainers.memory.steps import BatchShape
from trainers.model import has_weights, load_tokenizer

Lengths = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Batches:
    """What is known of the batches of a trial."""

    shapes: tuple[BatchShape, ...]
    """Those that may set the peak."""
    steps: int
    tokens_per_step: float
    """Of an average step, padding included."""
    evaluation_tokens: float
    """Of one evaluation, padding included."""
    notes: tuple[str, ...] = ()
    """What was assumed for want of data."""


def batches_of(config: Config, cache_dir: Path) -> Batches:
    """The batches that the trial will see."""
    most = f"every batch is data.max_length={config.data.max_length} long"
    if not has_weights(config.model):
        return _at_most(config, f"no data was looked at: {most}")
    try:
        data = prepare_data(config, load_tokenizer(config.model), cache_dir)
    except (OSError, ValueError, DataError) as error:
        return _at_most(config, f"{most} ({str(error).splitlines()[0][:160]})")
    return of_data(config, data.train, data.eval)


def _at_most(config: Config, note: str) -> Batches:
    """Batches of `data.max_length`, padded unless they are packed."""
    length = config.data.max_length
    shape = BatchShape(length, not config.data.packing, length, True)
    tokens = batch_sizes(config.batch).effective * length
    return Batches((shape,), config.train.steps or DEFAULT_STEPS, tokens, 0, (note,))


def of_data(config: Config, train: Examples, evaluation: Examples) -> Batches:
    """From the plan that the trial will follow."""
    work = plan(config, train)
    size = config.evaluate.batch or work.sizes.micro
    shapes = _candidates(config, train.lengths[work.indices], evaluation.lengths)
    padded = sum(float(batch.max()) * len(batch) for batch in _batches(evaluation.lengths, size))
    return Batches(tuple(shapes), work.steps, sum(work.padded_tokens) / work.steps, padded)


def _candidates(config: Config, in_order: Lengths, evaluation: Lengths) -> list[BatchShape]:
    """The batches that may set the peak, the most loaded first.

    A longer batch early on (no optimizer state yet, or no gradients of an earlier pass) may need more or
    less than a shorter one later: each that is longer than all more loaded ones, or as long and padded, is a
    candidate.
    """
    sizes = batch_sizes(config.batch)
    eval_longest, eval_padded = _longest(_batches(evaluation, config.evaluate.batch or sizes.micro))
    passes = _batches(in_order, sizes.micro)
    found: list[BatchShape] = []
    for has_state, has_gradients in ((True, True), (True, False), (False, True), (False, False)):
        batches = [
            lengths
            for position, lengths in enumerate(passes)
            if (position >= sizes.accumulation) == has_state
            and (position % sizes.accumulation > 0) == has_gradients
        ]
        length, padded = _longest(batches)
        if all((length, padded) > (shape.length, shape.padded) for shape in found) and length:
            found.append(
                BatchShape(
                    length, padded, eval_longest, eval_padded, len(evaluation), has_gradients, has_state
                )
            )
    return found


def _batches(lengths: Lengths, size: int) -> list[Lengths]:
    return [lengths[start : start + size] for start in range(0, len(lengths), size)]


def _longest(batches: list[Lengths]) -> tuple[int, bool]:
    """Length of the longest batch (0 without any), and whether one of that length holds shorter sequences."""
    longest = max((int(batch.max()) for batch in batches), default=0)
    return longest, any(batch.min() < longest for batch in batches if batch.max() == longest)
