"""How long the batches of a trial get: as its tokenised data says where there is some, else the longest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.contract.config import DEFAULT_STEPS, Config
from trainers.data.batches import Examples, batch_sizes, plan
from trainers.data.prepared import prepare_data
from trainers.data.sources import DataError
from trainers.evaluation.loss import evaluation_batch
from trainers.evaluation.quality import general_examples
from trainers.memory.steps import BatchShape
from trainers.model.source import load_tokenizer, model_path

Lengths = np.ndarray[Any, Any]
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")
"""One of these is in every folder that has a tokenizer; transformers makes an empty one up for some that
have none."""


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
    general_tokens: float
    """Of one evaluation of the general texts, padding included."""
    notes: tuple[str, ...] = ()
    """What was assumed for want of data."""


def batches_of(config: Config, cache_dir: Path) -> Batches:
    """The batches that the trial will see."""
    most = f"every batch is data.max_length={config.data.max_length} long"
    try:
        if not _has_tokenizer(config):
            return _at_most(config, f"no data was looked at, for want of a tokenizer: {most}")
        tokenizer = load_tokenizer(config.model)
        data, general = prepare_data(config, tokenizer, cache_dir), general_examples(config, tokenizer)
    except (OSError, ValueError, DataError) as error:
        return _at_most(config, f"{most} ({str(error).splitlines()[0][:160]})")
    return of_data(config, data.train, data.eval, general)


def _has_tokenizer(config: Config) -> bool:
    """A hub id is taken at its word."""
    folder = Path(model_path(config.model))
    return not folder.is_dir() or any(any(folder.glob(name)) for name in TOKENIZER_FILES)


def _at_most(config: Config, note: str) -> Batches:
    """Batches of `data.max_length`, padded unless they are packed."""
    length = config.data.max_length
    shape = BatchShape(length, not config.data.packing, length, True, config.data.max_eval_examples)
    tokens, budget = batch_sizes(config.batch).effective * length, config.train.token_budget
    steps = config.train.steps or (-(-budget // tokens) if budget else DEFAULT_STEPS)
    evaluated = float(length * (config.data.max_eval_examples or 0))
    general = float(length * config.evaluate.general)
    return Batches((shape,), steps, tokens, evaluated, general, (note, *_unseen(config)))


def of_data(config: Config, train: Examples, evaluation: Examples, general: Examples | None) -> Batches:
    """From the plan that the trial will follow, and all that it evaluates."""
    work = plan(config, train)
    size = evaluation_batch(config)
    evaluated = _batches(evaluation.lengths, size)
    texts = _batches(general.lengths, size) if general else []
    shapes = _candidates(config, train.lengths[work.indices], [*evaluated, *texts])
    return Batches(
        tuple(shapes),
        work.steps,
        sum(work.padded_tokens) / work.steps,
        _padded_tokens(evaluated),
        _padded_tokens(texts),
        tuple(_unseen(config)),
    )


def _unseen(config: Config) -> Iterator[str]:
    if config.evaluate.generate:
        yield "the keys and values of the answers to evaluate.generate are not counted"


def _padded_tokens(batches: Iterable[Lengths]) -> float:
    return sum(float(batch.max()) * len(batch) for batch in batches)


def _candidates(config: Config, in_order: Lengths, evaluated: list[Lengths]) -> list[BatchShape]:
    """The batches that may set the peak, the most loaded first.

    A longer batch early on (no optimizer state yet, or no gradients of an earlier pass) may need more or
    less than a shorter one later: each that is longer than all more loaded ones, or as long and padded, is a
    candidate.
    """
    sizes = batch_sizes(config.batch)
    eval_longest, eval_padded, eval_sequences = _heaviest(evaluated)
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
                    length, padded, eval_longest, eval_padded, eval_sequences, has_gradients, has_state
                )
            )
    return found


def _batches(lengths: Lengths, size: int) -> list[Lengths]:
    return [lengths[start : start + size] for start in range(0, len(lengths), size)]


def _heaviest(batches: list[Lengths]) -> tuple[int, bool, int]:
    """Length of the batch of most tokens, whether one like it holds shorter sequences, and their number."""
    sizes = [(int(batch.max()) * len(batch), int(batch.max())) for batch in batches]
    tokens, length = max(sizes)
    alike = [batch for batch, size in zip(batches, sizes, strict=True) if size == (tokens, length)]
    return length, any(batch.min() < length for batch in alike), tokens // length


def _longest(batches: list[Lengths]) -> tuple[int, bool]:
    """Length of the longest batch (0 without any), and whether one of that length holds shorter sequences."""
    longest = max((int(batch.max()) for batch in batches), default=0)
    return longest, any(batch.min() < longest for batch in batches if batch.max() == longest)
