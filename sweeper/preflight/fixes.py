"""Changes that would make a cell fit a memory limit, the cheapest first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sweeper.contract.config import BatchConfig, Config


@dataclass(frozen=True)
class Change:
    """One option set differently."""

    override: str
    """As the user would type it."""
    cost: str
    """What it costs, in words."""
    config: Config


def changes(config: Config, phase: str | None = None, overrides: Sequence[str] = ()) -> list[Change]:
    """Single changes that save memory, the cheapest in speed and quality first.

    `phase`: the one that sets the peak; `overrides`: what the user typed, which the changes must go with.
    """
    first = _evaluation(config) if phase == "evaluation" else ()
    found = [*first, *(change for find in CHANGES for change in find(config))]
    return [_beside(change, config, overrides) for change in found]


def combination(config: Config, overrides: Sequence[str] = ()) -> Change | None:
    """All changes together that leave the work as it is, each at its strongest; None when none is left."""
    typed, costs, changed = [], [], config
    for find in TOGETHER:
        for change in list(find(changed))[-1:]:
            typed.append(_beside(change, changed, overrides).override)
            costs.append(change.cost)
            changed = change.config
    return Change(" ".join(typed), "; ".join(costs), changed) if typed else None


def _beside(change: Change, config: Config, overrides: Sequence[str]) -> Change:
    """A micro batch changes the effective one where the accumulation was typed, unless that is too."""
    if change.config.batch == config.batch or not any(
        item.startswith("batch.accumulation=") for item in overrides
    ):
        return change
    accumulation = f"batch.accumulation={change.config.batch.accumulation}"
    return dataclasses.replace(change, override=f"{change.override} {accumulation}")


def _evaluation(config: Config) -> Iterator[Change]:
    if (config.evaluate.batch or config.batch.sequences) > 1:
        evaluate = dataclasses.replace(config.evaluate, batch=1)
        yield Change("evaluate.batch=1", "slower evaluations", dataclasses.replace(config, evaluate=evaluate))


def _kernel(config: Config) -> Iterator[Change]:
    if config.attention == "eager":
        yield Change("attention=sdpa", "none", dataclasses.replace(config, attention="sdpa"))


def _optimizer(config: Config) -> Iterator[Change]:
    if config.optim.startswith("adamw_torch"):
        for option, name in (("bnb8", "adamw_8bit"), ("adafactor", "adafactor")):
            yield Change(f"optim={option}", "another optimizer", dataclasses.replace(config, optim=name))


def _micro(config: Config) -> Iterator[Change]:
    batch, micro = config.batch, config.batch.sequences
    if batch.effective is None:
        return
    for smaller in (micro // 2, micro // 4, 1):
        if 1 <= smaller < micro and batch.effective % smaller == 0:
            less = BatchConfig(smaller, batch.effective, batch.effective // smaller)
            cost = "more passes per step, the same effective batch"
            yield Change(f"batch.micro={smaller}", cost, dataclasses.replace(config, batch=less))


def _weights(config: Config) -> Iterator[Change]:
    if config.adapter == "lora" and config.held_dtype == "float32" and config.precision in ("bf16", "fp32"):
        model = dataclasses.replace(config.model, dtype="bfloat16")
        yield Change(
            "model.dtype=bfloat16", "16-bit frozen weights", dataclasses.replace(config, model=model)
        )


def _checkpointing(config: Config) -> Iterator[Change]:
    if not config.checkpointing:
        on = dataclasses.replace(config, checkpointing=True)
        yield Change("checkpointing=on", "a quarter to a third of the speed", on)


def _quantization(config: Config) -> Iterator[Change]:
    if config.adapter == "lora" and config.quantization != "nf4":
        nf4 = dataclasses.replace(config, quantization="nf4")
        yield Change("quantization=nf4", "slower; 4-bit frozen weights", nf4)


def _adapter(config: Config) -> Iterator[Change]:
    if config.adapter == "full":
        lora = dataclasses.replace(config, adapter="lora")
        yield Change("adapter=lora", "trains an adapter in place of all weights", lora)


def _length(config: Config) -> Iterator[Change]:
    half = config.data.max_length // 2
    if half < 1:
        return
    data = dataclasses.replace(config.data, max_length=half)
    yield Change(f"data.max_length={half}", "cuts long examples", dataclasses.replace(config, data=data))


CHANGES: tuple[Callable[[Config], Iterator[Change]], ...] = (
    _kernel,
    _micro,
    _optimizer,
    _weights,
    _checkpointing,
    _quantization,
    _adapter,
    _length,
)
"""Cheapest first: those that keep speed and result, then those that cost speed, then those that change
what is trained."""
TOGETHER = (_kernel, _weights, _optimizer, _checkpointing, _quantization, _evaluation, _micro)
"""Those that neither cut the data nor change what is trained."""
