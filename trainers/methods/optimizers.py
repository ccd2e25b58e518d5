"""Optimizers by their `transformers` names, built alike for both loops, and what their state weighs.

`adafactor` is transformers' own with `scale_parameter=False` and `relative_step=False` as
`transformers.Trainer` sets them: it follows `train.learning_rate` and its schedule, keeps factored
second moments and no first moment.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_pt_utils import get_parameter_names

from sweeper.contract.config import Config
from trainers.data.batches import batch_sizes
from trainers.methods.model import CHECKPOINTING
from trainers.methods.precision import device, mixed_precision

NOT_DECAYED = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
"""Parameter names without weight decay: those of `Trainer.get_decay_parameter_names`."""


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
    """What `TrainingArguments` takes for the same training elsewhere, as plain JSON types.

    Here `trainers.methods.model` enables checkpointing, and a Trainer that is asked for it would do so again.
    """
    values = {"output_dir": "output", **_argument_values(config, steps)}
    names = ("activation_checkpointing", "gradient_checkpointing")  # the second in older versions
    name = next(name for name in names if name in TrainingArguments.__dataclass_fields__)
    values[name] = config.checkpointing
    if config.checkpointing:
        values[f"{name}_kwargs"] = CHECKPOINTING
    return values


def _argument_values(config: Config, steps: int) -> dict[str, Any]:
    sizes = batch_sizes(config.batch)
    return {
        "per_device_train_batch_size": sizes.micro,
        "gradient_accumulation_steps": sizes.accumulation,
        "max_steps": steps,
        "learning_rate": config.train.learning_rate,
        "lr_scheduler_type": config.train.lr_scheduler_type,
        "warmup_steps": config.train.warmup_steps,
        "weight_decay": config.train.weight_decay,
        "adam_beta1": config.train.adam_beta1,
        "adam_beta2": config.train.adam_beta2,
        "adam_epsilon": config.train.adam_epsilon,
        "max_grad_norm": config.train.max_grad_norm,
        "optim": config.optim,
        "optim_args": config.train.optim_args,
        "fp16": mixed_precision(config) == "fp16",
        "bf16": mixed_precision(config) == "bf16",
        "seed": config.train.seed,
        "use_cpu": device(config).type == "cpu",
    }


def build_optimizer(model: nn.Module, arguments: TrainingArguments) -> Optimizer:
    """The optimizer of `arguments` over the trainable parameters of `model`, in two groups: with
    weight decay, and without (biases and norms)."""
    cls, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)  # type: ignore[arg-type]
    parameters = _groups(model, arguments.weight_decay)
    for own in ("params", "model", "optimizer_dict"):  # GaLore, LOMO and layer-wise ones bring their own
        parameters = options.pop(own, parameters)
    optimizer: Optimizer = cls(parameters, **options)
    if options.get("optim_bits") == 8:
        _keep_embeddings_in_32_bit(model)
    return optimizer


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed = set(get_parameter_names(model, [nn.LayerNorm], list(NOT_DECAYED)))
    trainable = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups = [
        {"params": [w for name, w in trainable if name in decayed], "weight_decay": weight_decay},
        {"params": [w for name, w in trainable if name not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _keep_embeddings_in_32_bit(model: nn.Module) -> None:
    """As `Trainer` does: 8-bit state of embeddings is unstable (arXiv 2110.02861, section 2.3)."""
    from bitsandbytes.optim import GlobalOptimManager  # type: ignore[attr-defined]

    manager = GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})


def forget_overrides() -> None:
    """Let bitsandbytes forget an earlier trial of this process: it holds that trial's embeddings, and knows
    weights by ids that come again."""
    if "bitsandbytes" in sys.modules:
        from bitsandbytes.optim import GlobalOptimManager  # type: ignore[attr-defined]

        GlobalOptimManager.get_instance().initialize()


def build_scheduler(optimizer: Optimizer, arguments: TrainingArguments) -> LRScheduler:
    """The learning rate's schedule over `arguments.max_steps`."""
    scheduler: LRScheduler = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=arguments.get_warmup_steps(arguments.max_steps),
        num_training_steps=arguments.max_steps,
    )
    return scheduler


def state_tensors(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    """Every tensor of the optimizer's state once; tables that parameters share are met once."""
    seen: set[int] = set()
    pending: list[Any] = list(optimizer.state.values())
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
        elif isinstance(item, torch.Tensor) and id(item) not in seen:
            seen.add(id(item))
            yield item


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of the optimizer's state, wherever it lies (paged state included)."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state_tensors(optimizer))


def state_dtypes(optimizer: Optimizer) -> dict[str, int]:
    """Number of state tensors of each type, step counters and other single values left out."""
    tensors = (tensor for tensor in state_tensors(optimizer) if tensor.numel() > 1)
    return dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors))
