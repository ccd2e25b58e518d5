"""The evaluation loss: cross entropy per target token over a whole split."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sweeper.contract.config import Config
from trainers.data.batches import Collator, Examples, batch_sizes, loader
from trainers.data.prepared import PreparedData
from trainers.methods.precision import autocast


def evaluation_batch(config: Config) -> int:
    """Sequences per evaluation pass."""
    return config.evaluate.batch or batch_sizes(config.batch).micro


def evaluation_loss(model: nn.Module, data: PreparedData, config: Config, device: torch.device) -> float:
    """Loss per target token of the evaluation split."""
    return token_weighted_loss(model, data.eval, data.collator, config, device)


def token_weighted_loss(
    model: nn.Module, examples: Examples, collator: Collator, config: Config, device: torch.device
) -> float:
    """Loss per target token, each token weighing the same whatever its batch.

    Runs under the arithmetic of training; keeps no logits; leaves the model in its former mode.
    """
    batch = evaluation_batch(config)
    batches: Any = loader(examples, range(len(examples)), batch, collator)
    total, targets = torch.zeros((), device=device), int(examples.targets.sum())
    was_training = model.training
    model.eval()
    with torch.no_grad(), autocast(config, device):
        for index, tensors in enumerate(batches):
            counted = int(examples.targets[index * batch : (index + 1) * batch].sum())
            on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
            total += model(**on_device).loss.detach().float() * counted
    model.train(was_training)
    return float(total) / targets
