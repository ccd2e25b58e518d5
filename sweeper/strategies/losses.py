"""Cells whose losses are the same, because they compute the same steps in another way.

Accumulation equals the large batch, recomputed activations equal kept ones, and kernels and loops differ in
rounding alone: a trained cell tells the loss of all that differ from it in nothing else. (The most that was
seen is 2%, in full fine-tunes with Adafactor: benchmarks/results/search_table.json.)
"""

from __future__ import annotations

from sweeper.provenance import ABOUT_THE_STUDY, digest
from sweeper.schema import Config

HOW = ("trainer", "checkpointing", "attention", "trial", "evaluate")
"""Options and sections that say how a step is computed, or what is measured besides."""
SAME_OPTIMIZER = {"adamw_torch_fused": "adamw_torch"}
"""Optimizers that are others in another kernel."""


def loss_key(config: Config) -> str:
    """Equal for cells whose training is the same but for rounding."""
    plain = {name: value for name, value in config.to_dict().items() if name not in (*ABOUT_THE_STUDY, *HOW)}
    plain["batch"] = config.batch.effective
    plain["optim"] = SAME_OPTIMIZER.get(config.optim, config.optim)
    return digest(plain)
