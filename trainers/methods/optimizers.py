"""Optimizers by their `transformers` names, built alike for both loops, and what their state weighs.

`adafactor` is transformers' own with `scale_parameter=False` and `relative_step=False` as
`transformers.Trainer` sets them: it follows `train.learning_rate` and its schedule, keeps factored
second moments and no first moment.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_pt_utils import get_parameter_names
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from sweeper.contract.config import Config
from sweeper.contract.trial import Problem
from trainers.methods.method import Cost, Facts, Method, compare
from trainers.methods.precision import device
from trainers.model.layers import count_dtypes
from trainers.model.source import shorten

PAGED_ELEMENTS = 100_000
"""Weights from this size on have their state in managed memory where the optimizer is paged
(`get_state_buffer`, bitsandbytes/optim/optimizer.py)."""
NOT_DECAYED = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
"""Parameter names without weight decay: those of `Trainer.get_decay_parameter_names`."""


def _training_arguments(config: Config) -> dict[str, Any]:
    return {
        "optim": config.optim,
        "optim_args": config.train.optim_args,
        "learning_rate": config.train.learning_rate,
        "lr_scheduler_type": config.train.lr_scheduler_type,
        "warmup_steps": config.train.warmup_steps,
        "weight_decay": config.train.weight_decay,
        "adam_beta1": config.train.adam_beta1,
        "adam_beta2": config.train.adam_beta2,
        "adam_epsilon": config.train.adam_epsilon,
        "max_grad_norm": config.train.max_grad_norm,
    }


def _get_class(config: Config) -> Any:
    """What transformers makes of the name, without a model. Raises ImportError, ValueError, KeyError or
    AttributeError when it cannot say."""
    arguments = TrainingArguments.__new__(TrainingArguments)  # __init__ resets Accelerate amid a training
    vars(arguments).update(_training_arguments(config), optim=OptimizerNames(config.optim))
    return Trainer.get_optimizer_cls_and_kwargs(arguments)[0]


def _check(config: Config) -> Iterator[Problem]:
    """Whether transformers knows the names, and the optimizer's package is there and takes its arguments."""
    problems = [
        *_unknown_name("optim", config.optim, OptimizerNames),
        *_unknown_name("train.lr_scheduler_type", config.train.lr_scheduler_type, SchedulerType),
    ]
    yield from problems
    if problems:
        return
    try:
        _get_class(config)
    except (ImportError, ValueError, KeyError, AttributeError) as error:
        yield Problem(
            f"the optimizer must be usable here: {shorten(error)}",
            "optim",
            config.optim,
            "install the package that it names, correct train.optim_args, or take another optimizer",
        )


def _unknown_name(key: str, value: str, known: Iterable[Any]) -> Iterator[Problem]:
    names = [item.value for item in known]
    if value not in names:
        near = difflib.get_close_matches(value, names, n=3, cutoff=0.5) or names
        rule = f"{key} must be a name that transformers knows"
        yield Problem(rule, key, value, f"one of {', '.join(near)}")


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
    return count_dtypes(tensor for tensor in state_tensors(optimizer) if tensor.numel() > 1)


def qualified_name(cls: type) -> str:
    """A class by the module that defines it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _find_in_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    paged = sum(getattr(tensor, "is_paged", False) for tensor in state_tensors(optimizer))
    return {
        "optimizer_class": qualified_name(type(optimizer)),
        "optimizer_fused": bool(optimizer.defaults.get("fused")),
        "optimizer_paged": paged > 0,
        "optimizer_paged_tensors": paged,
        "optimizer_state_dtypes": state_dtypes(optimizer),
    }


def _judge(config: Config, active: Facts) -> Iterator[str]:
    if "optimizer_class" not in active:
        return
    yield from compare(optim=(active["optimizer_class"], _asked_class(config) or active["optimizer_class"]))
    if "8bit" in config.optim and "uint8" not in active["optimizer_state_dtypes"]:
        yield (
            f"`optim={config.optim}` must hold 8-bit state, but no tensor of its state is 8-bit "
            "(bitsandbytes keeps 32-bit state below 4096 elements): raise lora.r or take a larger model"
        )
    if "fused" in config.optim and not active["optimizer_fused"]:
        yield f"`optim={config.optim}` must be fused, but torch runs it unfused"
    # bitsandbytes pages on CUDA only; elsewhere the optimizer is the unpaged one and is recorded so
    if "paged" in config.optim and device(config).type == "cuda" and not active["optimizer_paged"]:
        yield (
            f"`optim={config.optim}` must page its state, but no tensor of it is paged (bitsandbytes pages "
            "tensors of at least 100000 elements): raise lora.r, take a larger model, or the unpaged one"
        )


def _asked_class(config: Config) -> str | None:
    """None where transformers cannot say without a model (GaLore, LOMO …)."""
    try:
        return qualified_name(_get_class(config))
    except (ImportError, ValueError):
        return None


def _qualify(config: Config, active: Facts) -> dict[str, str]:
    if "paged" not in config.optim or active.get("optimizer_paged") is not False:
        return {}
    said = "is not paged here: bitsandbytes pages on CUDA only, elsewhere it is the unpaged optimizer"
    return {"optim": f"{config.optim} {said}"}


def is_paged(optimizer: Optimizer) -> bool:
    """Whether large state of it lies in managed memory where it runs on CUDA."""
    return bool(getattr(optimizer, "is_paged", False))


def act_as_on_cuda(optimizer: Optimizer, aside: Callable[[], AbstractContextManager[None]]) -> None:
    """Let an optimizer over fake CPU tensors work as it does on CUDA: on all weights at once
    (`_default_to_fused_or_foreach`, torch/optim/optimizer.py, takes foreach for CUDA tensors only), and paged
    state made inside of `aside`: it comes from managed memory, not from torch's allocator."""
    for group in optimizer.param_groups:
        if group.get("foreach", False) is None and not group.get("fused"):
            group["foreach"] = True
    if not is_paged(optimizer):
        return
    make: Callable[..., torch.Tensor] = optimizer.get_state_buffer  # type: ignore[attr-defined]

    def buffer(weight: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        with aside() if weight.numel() >= PAGED_ELEMENTS else nullcontext():
            return make(weight, dtype=dtype)

    optimizer.get_state_buffer = buffer  # type: ignore[attr-defined]


def _inner_bytes(on_cuda: bool) -> Mapping[Any, Callable[..., int]]:
    if on_cuda:
        return {}
    bnb = torch.ops.bitsandbytes
    return {
        bnb.optimizer_update_8bit_blockwise.default: _update_8bit,
        bnb.optimizer_update_32bit.default: _update_32bit,
    }


def _update_8bit(name: str, gradient: torch.Tensor, weight: torch.Tensor, *rest: Any) -> int:
    """Both moments, gradient, weight, and a denominator or a quantised copy, in float32
    (`_optimizer_update_8bit_blockwise_cpu`, bitsandbytes/backends/cpu/ops.py of 0.50)."""
    moments = 1 if rest[1] is None else 2
    copied = sum(tensor.dtype != torch.float32 for tensor in (gradient, weight))
    return weight.numel() * 4 * (moments + 2 + copied)


def _update_32bit(name: str, gradient: torch.Tensor, weight: torch.Tensor, *rest: Any) -> int:
    """Gradient and weight in float32, and the denominator (`_optimizer_update_32bit_cpu`, same file)."""
    return weight.numel() * 4 * 3


METHOD = Method(
    name="optim",
    check=_check,
    training_arguments=_training_arguments,
    find_in_optimizer=_find_in_optimizer,
    judge=_judge,
    qualify=_qualify,
    cost=Cost(inner_bytes=_inner_bytes),
)
