"""Which examples go into which optimizer step, and how they become tensors.

The plan is fixed before training: it depends on the lengths of the examples, the seed and the batch
sizes, not on the loop that carries it out.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sweeper.contract.config import DEFAULT_EFFECTIVE_BATCH, DEFAULT_STEPS, BatchConfig, Config

IGNORED_LABEL = -100
"""Label that the loss skips (`ignore_index` of torch's cross entropy)."""

Example = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
Batch = dict[str, torch.Tensor]


class Examples:
    """Tokenised examples, memory-mapped: token ids, labels, and the length of each."""

    def __init__(self, stored: datasets.Dataset) -> None:
        table = stored.data.table.combine_chunks()
        self._ids, starts = _flat(table.column("input_ids"))
        self._labels, _ = _flat(table.column("labels"))
        self._starts = starts
        self.lengths = np.diff(starts)
        self.targets = table.column("targets").to_numpy()
        """Tokens of each example that the loss counts."""

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Example:
        span = slice(self._starts[index], self._starts[index + 1])
        return self._ids[span], self._labels[span]


def _flat(column: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The values of a list column and the offsets at which its rows begin, without copying."""
    rows = column.chunk(0)
    return rows.values.to_numpy(), rows.offsets.to_numpy()


@dataclass(frozen=True)
class BatchSizes:
    """Sequences per pass, passes per optimizer step."""

    micro: int
    accumulation: int

    @property
    def effective(self) -> int:
        """Sequences per optimizer step."""
        return self.micro * self.accumulation


def batch_sizes(batch: BatchConfig) -> BatchSizes:
    """Resolve `batch`. Raises ValueError when the micro batch does not divide the effective one."""
    if batch.accumulation is not None:
        sizes = BatchSizes(batch.sequences, batch.accumulation)
    else:
        effective = batch.effective or DEFAULT_EFFECTIVE_BATCH
        sizes = BatchSizes(batch.sequences, effective // batch.sequences)
    if sizes.effective != (batch.effective or sizes.effective) or sizes.accumulation < 1:
        raise ValueError(
            "`batch.micro * batch.accumulation == batch.effective` must hold, but got "
            f"micro={batch.micro}, accumulation={batch.accumulation}, effective={batch.effective}: "
            "leave `batch.accumulation` unset and let `batch.micro` divide `batch.effective`"
        )
    return sizes


def order(seed: int, examples: int, count: int) -> list[int]:
    """Indices of the first `count` examples to train on: a fresh seeded permutation per epoch."""
    epochs = (_permutation(seed, epoch, examples) for epoch in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(epochs), count))


def _permutation(seed: int, epoch: int, examples: int) -> list[int]:
    indices = list(range(examples))
    random.Random(f"{seed}/{epoch}").shuffle(indices)
    return indices


@dataclass(frozen=True)
class Plan:
    """The work of one trial, example by example."""

    sizes: BatchSizes
    indices: list[int]
    """Example of each sequence, in the order of training; `effective` of them per step."""
    tokens: list[int]
    """Non-padding tokens of each step."""
    padded_tokens: list[int]
    """Tokens of each step with the padding to the longest of its micro batch."""
    micro_targets: list[list[int]]
    """Target tokens of each micro batch of each step."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.tokens)

    @property
    def targets(self) -> list[int]:
        """Target tokens of each step: what its loss is divided by."""
        return [sum(targets) for targets in self.micro_targets]

    def until(self, step: int) -> Plan:
        """The plan without what comes after a step."""
        return Plan(
            self.sizes,
            self.indices[: step * self.sizes.effective],
            self.tokens[:step],
            self.padded_tokens[:step],
            self.micro_targets[:step],
        )


def plan(config: Config, examples: Examples) -> Plan:
    """Lay out the steps of a trial. Equal seeds and effective batches give equal steps."""
    sizes = batch_sizes(config.batch)
    steps = _step_count(config, examples, sizes.effective)
    indices = order(config.train.seed, len(examples), steps * sizes.effective)
    if config.trial.probe_steps is not None:
        indices = _longest_first(indices, examples, sizes.effective)
        steps = min(steps, config.trial.probe_steps)
        indices = indices[: steps * sizes.effective]
    shape = (steps, sizes.accumulation, sizes.micro)
    lengths = examples.lengths[indices].reshape(shape)
    targets = examples.targets[indices].reshape(shape).sum(axis=2)
    return Plan(
        sizes=sizes,
        indices=indices,
        tokens=lengths.sum(axis=(1, 2)).tolist(),
        padded_tokens=(lengths.max(axis=2) * sizes.micro).sum(axis=1).tolist(),
        micro_targets=targets.tolist(),
    )


def _longest_first(indices: list[int], examples: Examples, effective: int) -> list[int]:
    """The same steps, beginning with the one that holds the longest example: it decides what fits."""
    longest = int(examples.lengths[indices].reshape(-1, effective).max(axis=1).argmax())
    start, end = longest * effective, (longest + 1) * effective
    return [*indices[start:end], *indices[:start], *indices[end:]]


def _step_count(config: Config, examples: Examples, effective: int) -> int:
    budget = config.train.token_budget
    if config.train.steps is not None or budget is None:
        return config.train.steps or DEFAULT_STEPS
    epochs, rest = divmod(budget - 1, int(examples.lengths.sum()))
    last = examples.lengths[_permutation(config.train.seed, epochs, len(examples))]
    reached_by = epochs * len(examples) + int(np.searchsorted(last.cumsum(), rest + 1))
    return reached_by // effective + 1


class OrderedExamples(Dataset[Example]):
    """Examples in the order of a plan, as a data set that a sequential sampler walks once."""

    def __init__(self, examples: Examples, indices: Sequence[int]) -> None:
        self._examples = examples
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Example:
        return self._examples[self._indices[position]]


@dataclass(frozen=True)
class Collator:
    """Pads a micro batch on the right to its longest sequence."""

    pad_id: int

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """`input_ids`, `attention_mask` and `labels`, each int64 of shape (sequences, longest)."""
        shape = (len(examples), max(len(ids) for ids, _ in examples))
        input_ids = np.full(shape, self.pad_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORED_LABEL, dtype=np.int64)
        for row, (ids, targets) in enumerate(examples):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
            labels[row, : len(ids)] = targets
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def loader(
    examples: Examples, indices: Sequence[int], batch: int, collator: Collator, pin_memory: bool = False
) -> DataLoader[Any]:
    """Batches of `batch` examples in the given order."""
    return DataLoader(
        OrderedExamples(examples, indices),
        batch_size=batch,
        shuffle=False,
        collate_fn=collator,
        pin_memory=pin_memory,
    )
