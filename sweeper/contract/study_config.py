"""Options of the study: what may vary, who proposes the next cell, when it ends, how it is judged.

Nothing here changes the work of a trial. Standard library only.
"""

from __future__ import annotations

import re
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
    `pip install 'finetune-sweeper[cmaes]'`) or `nsgaii`, all of them Optuna's."""
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


DEFAULT_OBJECTIVE = "tokens_per_s"


@dataclass(frozen=True)
class MemoryConfig:
    """What is done with the predicted peak memory of a cell."""

    skip: Literal["never", "confident"] = "confident"
    """`confident`: a cell whose predicted peak exceeds `trial.memory_limit_gib` (on CUDA without one: the
    device's memory) by more than `margin` is not run; its outcome is `predicted_oom`. `never`: every cell
    is run."""
    margin: float = 0.1
    """How far a predicted peak may exceed the limit before its cell is skipped, as a share of the limit."""


@dataclass(frozen=True)
class StudyConfig:
    """The search as a whole, and where its folder lies."""

    name: str | None = None
    """Name of the study. Unset: derived from what is swept, so that the same command finds it."""
    root: str = "studies"
    """Folder that holds one folder per study."""
    fresh: bool = False
    """Measure every cell anew. Earlier trials stay in the folder."""
    retry: tuple[str, ...] = ()
    """Outcomes to run again although they are settled, for example `[crashed]`."""
    storage: str | None = None
    """Optuna storage URL. Unset: SQLite in the study's folder."""


@dataclass(frozen=True)
class TrackingConfig:
    """Where MLflow records the study."""

    uri: str | None = None
    """MLflow tracking URI. Unset: `sqlite:///mlflow.db` beside `study.root`."""
    experiment: str | None = None
    """MLflow experiment. Unset: the study's name."""


@dataclass(frozen=True)
class HardwareConfig:
    """What is known of the machine that it cannot tell itself."""

    price_per_hour: float | None = None
    """Price of one device for an hour, in your currency. Unset: no costs are given. A finished trial keeps
    the price at which it ran."""


@dataclass(frozen=True)
class ProductionConfig:
    """How the best configuration of a study is run for real."""

    trial: int | None = None
    """Number of the trial to run for real. Unset: the best under the study's rule, which
    `objective.…` and `constraint.…` on the command line overrule."""
    epochs: float = 1.0
    """Passes over the training data, rounded up to whole optimizer steps. The data is all there is:
    `data.max_train_examples` and `data.max_eval_examples` of the study do not count."""
    steps: int | None = None
    """Optimizer steps, instead of `epochs`."""
    checkpoint_every_steps: int = 50
    """Optimizer steps from one checkpoint to the next, and so the most that a kill can cost. The
    evaluation loss is taken before each; `evaluate.every_steps` has no effect."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept, besides the one with the lowest evaluation loss."""
    patience: int | None = 3
    """Evaluations in a row without a new lowest loss after which training ends. Unset: never."""
    merge: bool = False
    """Also write the base weights with the adapter merged into them. No effect under `adapter=full`."""
    register: bool = True
    """Register the model, adapter merged, in the MLflow Model Registry: needs the disk space of all
    weights once more."""
    name: str | None = None
    """Name of the registered model. Unset: the study's name."""
    licence: str | None = None
    """Licence of the result for its model card, as the Hugging Face hub names it (`apache-2.0`). Unset:
    the card says that the licences of base model and data apply."""
    fresh: bool = False
    """Train anew although a run with these options has ended; its folder is kept beside the new one. A
    run that was cut off goes on all the same."""


DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration_s(text: str) -> float | None:
    """Seconds in `90s`, `30m`, `2h`, `1d` or `1h30m`; None when it is none of these."""
    parts = DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * SECONDS[unit] for number, unit in parts)
