"""What a trial has to know of a method: what it does, what proves that it did, and what it costs in memory.

A file of this folder holds one method, or a family of which one is taken, as `METHOD`; a hook that it does
not need is left out. The hooks stand in the order in which a trial calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from sweeper.contract.config import Config
from sweeper.contract.trial import Problem
from trainers.model.probe import Probe

Facts = Mapping[str, Any]
"""What was found active so far. Facts of steps that were never taken are missing."""
SHOWN = 3
"""Names that a message lists."""


def _nothing(*_: Any) -> tuple[()]:
    return ()


def _no_facts(*_: Any) -> dict[Any, Any]:
    return {}


@dataclass(frozen=True)
class Cost:
    """What a method costs where fake tensors do not show it."""

    replies: Callable[[], Mapping[Any, Callable[..., Any]]] = _no_facts
    """Operations that need more than shapes -> what answers them."""
    inner_bytes: Callable[[bool], Mapping[Any, Callable[..., int]]] = _no_facts
    """Operations -> the memory that each takes and gives back while it runs; told whether it runs on CUDA."""
    cuda_kernels: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Inside, fake CPU tensors take the paths of CUDA tensors."""
    constants: Callable[[nn.Module], Iterable[torch.Tensor]] = _nothing
    """Tensors of a model that are neither parameters nor buffers."""
    resident_bytes: Callable[[Config, nn.Module], int] = lambda config, model: 0
    """What a CPU process holds besides tensors."""
    repeated_forward: Callable[[Config], float] = lambda config: 0.0
    """Share of a forward pass that the backward pass does again."""


@dataclass(frozen=True)
class Method:
    """One method, or a family of which one is taken."""

    name: str
    """The option that chooses it, or its section."""
    check: Callable[[Config], Iterable[Problem]] = _nothing
    """Before any trial: why it cannot run here."""
    check_on_model: Callable[[Config], Iterable[Problem]] = _nothing
    """Before any trial, with a model that can be loaded: why it cannot run on that model."""
    check_looks_at: tuple[str, ...] = ()
    """The options and sections that `check_on_model` depends on."""
    load_arguments: Callable[[Config], Mapping[str, Any]] = _no_facts
    """Arguments of `from_pretrained`."""
    set_up: Callable[[PreTrainedModel, Config], None] = lambda base, config: None
    """Change a base model that has its weights."""
    adapt: Callable[[Any, Config], nn.Module] = lambda base, config: base
    """The model that is trained, made of the base model."""
    training_arguments: Callable[[Config], Mapping[str, Any]] = _no_facts
    """Arguments of `transformers.TrainingArguments`."""
    portable_arguments: Callable[[Config], Mapping[str, Any]] = _no_facts
    """Further ones, which a Trainer elsewhere needs for the same training."""
    find_in_model: Callable[[nn.Module, Config], Mapping[str, Any]] = _no_facts
    """Facts about the model as it stands before training."""
    find_in_step: Callable[[Probe], Mapping[str, Any]] = _no_facts
    """Facts that the first optimizer step showed."""
    find_in_optimizer: Callable[[Optimizer], Mapping[str, Any]] = _no_facts
    """Facts about the optimizer after a step."""
    judge: Callable[[Config, Facts], Iterable[str]] = _nothing
    """What was asked for and is not among the facts; is asked again as facts come."""
    qualify: Callable[[Config, Facts], Mapping[str, str]] = _no_facts
    """What has to be known to read figures under the option's name."""
    cost: Cost = field(default_factory=Cost)


def compare(**checks: tuple[Any, Any]) -> Iterator[str]:
    """A sentence for each option (dots written as `__`) whose `(found, asked)` differ; a fact that is None is
    not judged."""
    for key, (found, asked) in checks.items():
        if found is not None and found != asked:
            option = key.replace("__", ".")
            yield f"`{option}` must take effect: asked for {asked!r}, found {found!r}"


def get_only(counts: Mapping[str, int] | None) -> Any:
    """The only one that was counted, or all of them."""
    return next(iter(counts)) if counts and len(counts) == 1 else counts or None


def shorten_list(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
