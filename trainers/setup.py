"""What is trained: the model with every method applied, and the arguments of `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments

from sweeper.contract.config import Config
from trainers.checkpoint.weights import refuse_made_up
from trainers.methods import METHODS
from trainers.methods.precision import device
from trainers.model.source import base_source


def build_model(config: Config, where: torch.device) -> nn.Module:
    """The model that is trained, on its device."""
    return adapt(load_base(config, where), config)


def load_base(config: Config, where: torch.device) -> PreTrainedModel:
    """The base model, loaded and set up as the methods ask. Raises as `from_pretrained` does, and
    MadeUpWeightsError when the checkpoint lacks weights."""
    arguments = {name: value for method in METHODS for name, value in method.load_arguments(config).items()}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **base_source(config.model),
        **arguments,
        device_map={"": str(where)},
        use_safetensors=True,
        output_loading_info=True,
    )
    model, info = loaded
    refuse_made_up(model, info)
    return configure(model, config)


def configure(model: PreTrainedModel, config: Config) -> PreTrainedModel:
    """Set a base model that has its weights up for training."""
    model.config.use_cache = False
    for method in METHODS:
        method.set_up(model, config)
    return model


def adapt(base: PreTrainedModel, config: Config) -> nn.Module:
    """The model that is trained, made of its base."""
    model: nn.Module = base
    for method in METHODS:
        model = method.adapt(model, config)
    return model


def training_arguments(config: Config, steps: int, folder: Path) -> TrainingArguments:
    """The configuration in the terms of `transformers`. Writes nothing of its own to `folder`.

    Raises ValueError for an optimizer or scheduler that `transformers` does not know.
    """
    return TrainingArguments(
        output_dir=str(folder),
        dataloader_pin_memory=device(config).type == "cuda",
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        **_argument_values(config, steps),
    )


def portable_arguments(config: Config, steps: int) -> dict[str, Any]:
    """What `TrainingArguments` takes for the same training elsewhere, as plain JSON types."""
    values = {"output_dir": "output", **_argument_values(config, steps)}
    for method in METHODS:
        values |= method.portable_arguments(config)
    return values


def _argument_values(config: Config, steps: int) -> dict[str, Any]:
    values = {"max_steps": steps, "seed": config.train.seed, "use_cpu": device(config).type == "cpu"}
    for method in METHODS:
        values |= method.training_arguments(config)
    return values
