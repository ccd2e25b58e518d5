"""What each option matters for: the work of a trial, its memory, its loss, or the study alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sweeper.contract.config import Config
from sweeper.contract.stamps import digest

ABOUT_THE_STUDY = frozenset(
    "study tracking hardware objective constraint strategy fidelity pruner slots space search budget "
    "repeats production memory".split()
)
"""Sections of the configuration that say nothing about the work of a trial."""


SECTIONS_WITHOUT_MEMORY = (
    "study tracking hardware objective constraint strategy fidelity pruner slots space search budget "
    "repeats production memory"
).split()
"""Sections of the configuration that say nothing about a trial's memory."""
OPTIONS_WITHOUT_MEMORY = {
    "train": (
        "learning_rate", "weight_decay", "lr_scheduler_type", "warmup_steps", "adam_beta1", "adam_beta2",
        "adam_epsilon",
    ),
    "lora": ("alpha", "use_rslora"),
    "evaluate": ("every_steps",),
}  # fmt: skip
"""Options of the other sections that change neither a tensor's size nor which batches come."""
TRIAL_OPTIONS = ("device", "probe_steps")
"""The options of a trial that do."""


def memory_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration (as plain types) decides its prediction: equal ones have the same."""
    kept = {name: value for name, value in config.items() if name not in SECTIONS_WITHOUT_MEMORY}
    for section, names in OPTIONS_WITHOUT_MEMORY.items():
        kept[section] = _without(kept[section], names)
    return {**kept, "trial": {name: config["trial"][name] for name in TRIAL_OPTIONS}}


def _without(section: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name not in names}


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
