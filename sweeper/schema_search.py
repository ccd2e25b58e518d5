"""Options of the search: what may vary, who proposes the next cell, and when it ends.

Part of `schema.py`, which imports these classes. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Strategy = Literal["auto", "grid", "search", "joint", "paper"]
Pruner = Literal["none", "median", "asha", "hyperband"]
Fidelity = Literal["train", "probe+train"]
Sampler = Literal["tpe", "random", "qmc", "gp", "cmaes", "nsgaii"]


@dataclass(frozen=True)
class ObjectiveConfig:
    """What makes a trial better. Several metrics make a Pareto study, whose best is that of the first."""

    maximize: str | tuple[str, ...] | None = None
    """Metric, or list of metrics, to maximise. Unset, with `minimize` unset too: tokens_per_s."""
    minimize: str | tuple[str, ...] | None = None
    """Metric, or list of metrics, to minimise."""


@dataclass(frozen=True)
class ConstraintConfig:
    """What a trial must keep to be eligible as best."""

    peak_memory_gib: float | None = None
    """Highest allowed `peak_memory_bytes`, in GiB."""
    eval_loss_within: float | None = 0.05
    """Highest allowed evaluation loss, relative to the lowest of the study: 0.05 allows 5% more."""
    at_most: tuple[str, ...] = ()
    """Highest allowed values of any measured metrics: `[forgetting:0.1,hallucination_rate:0.05]`."""
    at_least: tuple[str, ...] = ()
    """Lowest allowed values of any measured metrics: `[exact_match:0.5]`."""
    baseline: str | None = None
    """Cell, `option=value option=value`, whose evaluation loss `eval_loss_within` refers to instead of
    the lowest. It is measured first. What it does not name has its value without the sweep."""
    tokens_per_s: float | None = None
    """Lowest allowed throughput."""


@dataclass(frozen=True)
class SpaceConfig:
    """A space that is written down instead of typed. Group `space`: paper, and files of your own
    (`conf/space/*.yaml`). What the command line sweeps is added to it; what it gives one value keeps it."""

    sweep: dict[str, str] = field(default_factory=dict)
    """Option -> what it may be, in the words of the command line: `1,2,4`, `choice(a,b)`,
    `range(8,33,8)`, `interval(0.1,1)`, `tag(log,interval(1e-4,1e-2))`, `int(interval(1,64))`."""
    only_when: dict[str, str] = field(default_factory=dict)
    """Swept option -> the condition under which it is swept, `option=value,value option=value`;
    elsewhere the option keeps its value without the sweep. On a command line:
    `"space.only_when={lora.use_dora: 'quantization=none'}"`."""
    never: tuple[str, ...] = ()
    """Combinations that are left out, each `option=value,value option=value`."""


@dataclass(frozen=True)
class SearchConfig:
    """How cells are proposed when not all of them are measured."""

    n_trials: int | None = None
    """Cells to propose; `hydra.sweeper.n_trials` says the same. Set: the space is searched, not
    enumerated. Unset: 30 where there is a continuous range, every cell elsewhere."""
    sampler: Sampler = "tpe"
    """Who proposes: `tpe`, `random`, `qmc`, `gp`, `cmaes` (heeds no constraint; comes with
    `pip install 'sweeper[cmaes]'`) or `nsgaii`, all of them Optuna's."""
    seed: int = 0
    """Seed of the sampler: the same results lead to the same proposals."""
    probe_steps: int = 5
    """Measured optimizer steps of a probe, after `trial.warmup_steps`. No effect under
    `fidelity=train`."""


@dataclass(frozen=True)
class BudgetConfig:
    """When the study ends although cells are left. The same command with more budget goes on."""

    trials: int | None = None
    """Trials to run, those of earlier runs of the study included. Unset: no limit."""
    time: str | None = None
    """Time in which trials may begin, summed over the runs of the study: `90s`, `30m`, `2h` or
    `1d`. A trial that has begun ends as it would. Unset: no limit."""
    device_hours: float | None = None
    """Hours of devices in use, summed over trials. Unset: no limit."""


@dataclass(frozen=True)
class RepeatsConfig:
    """Measuring the best again, so that "best" comes with an interval."""

    finalists: int = 0
    """Best eligible cells to measure again, one after the other in turns. 0: none."""
    runs: int = 3
    """Measurements of each finalist in all, the first one included."""
