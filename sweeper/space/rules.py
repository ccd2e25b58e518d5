"""Which options of the search go together, and why the others do not. Pure functions."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping

from sweeper.contract.config import Config
from sweeper.contract.measurements import METRICS, PRICE
from sweeper.contract.metrics import CUDA
from sweeper.contract.study_config import duration_s
from sweeper.contract.trial import Problem
from sweeper.machine import Machine, uses_cuda
from sweeper.ranking.constraint import check_limits
from sweeper.ranking.objective import parse_objectives
from sweeper.ranking.rule import Rule
from sweeper.space.baseline import baseline_problems
from sweeper.space.dimensions import Choices, Dimension

Dimensions = Mapping[str, Dimension]


def check_study(config: Config, dimensions: Dimensions, strategy: str) -> list[Problem]:
    """Every rule about the study as a whole that is broken."""
    return [problem for rule in RULES for problem in rule(config, dimensions, strategy)]


def check_measured(config: Config, dimensions: Dimensions, machine: Machine) -> Iterator[Problem]:
    """What objectives and constraints look at is measured by the trials that would run here."""
    rule = Rule.of(config.objective, config.constraint)
    asked: dict[str, list[str]] = {}
    named = [(item.metric, item.key) for item in rule.objectives]
    named += [(item.metric, item.key) for item in rule.constraints]
    for metric, key in named:
        asked.setdefault(metric, []).append(key)
    on_cuda = uses_cuda(config, machine) or "trial.device" in dimensions
    for metric, keys in asked.items():
        if _need(metric) == CUDA and not on_cuda:
            yield Problem(
                f"{keys[0]} must name a metric that is measured here, and {metric} needs a CUDA device",
                keys[0],
                metric,
                "run on a CUDA device, or take another metric",
            )
    general, generate, price = (
        config.evaluate.general, config.evaluate.generate, config.hardware.price_per_hour
    )  # fmt: skip
    for option, value, is_given, remedy in (
        ("evaluate.generate", generate, generate > 0, "give evaluate.generate=32"),
        ("evaluate.general", general, general > 0, "give evaluate.general=32"),
        (f"hardware.{PRICE}", price, price is not None, f"give hardware.{PRICE}=…"),
    ):
        needing = [metric for metric in asked if _need(metric) == option]
        if needing and not is_given and option not in dimensions:
            keys = list(dict.fromkeys(key for metric in needing for key in asked[metric]))
            need = "needs" if len(needing) == 1 else "need"
            said = f"{' and '.join(needing)} ({', '.join(keys)}) {need} {option}"
            yield Problem(said, option, "null" if value is None else str(value), remedy)


def _need(metric: str) -> str:
    """What a metric cannot be measured without; nothing for one that `objective` refuses."""
    return METRICS[metric].needs if metric in METRICS else ""


def numbers(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """Numbers lie in their ranges."""
    search, budget, repeats = config.search, config.budget, config.repeats
    for key, value, lowest in (
        ("search.n_trials", search.n_trials, 1),
        ("search.seed", search.seed, 0),
        ("search.probe_steps", search.probe_steps, 1),
        ("budget.trials", budget.trials, 1),
        ("budget.device_hours", budget.device_hours, 0),
        ("repeats.finalists", repeats.finalists, 0),
        ("repeats.runs", repeats.runs, 2),
        ("slots", None if config.slots == "auto" else config.slots, 1),
        ("constraint.tokens_per_s", config.constraint.tokens_per_s, 0),
    ):
        if isinstance(value, int | float) and (value < lowest or not math.isfinite(value)):
            yield Problem(f"{key} must be >= {lowest}", key, str(value), f"give a value >= {lowest}")
    if budget.time is not None and not duration_s(budget.time):
        yield Problem(
            "budget.time must be a duration", "budget.time", budget.time, "write 90s, 30m, 2h or 1d"
        )


def objective(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """Objectives are measured, differ, and can be computed."""
    asked = parse_objectives(config.objective)
    for item in asked:
        if item.metric not in METRICS:
            yield Problem(
                f"{item.key} must be a measured metric",
                item.key,
                item.metric,
                f"take one of {', '.join(METRICS)}",
            )
    names = [item.metric for item in asked]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("objectives must differ", "objective.minimize", name, "name each metric once")


def pruner(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """A pruner has one objective, evaluations to look at, and a reason to."""
    if config.pruner == "none":
        return
    asked = parse_objectives(config.objective)
    if len(asked) > 1:
        yield Problem(
            "a pruner needs a single objective",
            "pruner",
            f"{config.pruner} (objectives: {', '.join(item.metric for item in asked)})",
            "set pruner=none, or name one objective",
        )
    if config.evaluate.every_steps is None and "evaluate.every_steps" not in dimensions:
        yield Problem(
            "a pruner compares evaluation losses while trials run",
            "evaluate.every_steps",
            "null",
            "give evaluate.every_steps=…, or set pruner=none",
        )
    if config.constraint.eval_loss_within is None and asked[0].metric != "eval_loss":
        yield Problem(
            "a pruner needs a rule that the evaluation loss can break",
            "constraint.eval_loss_within",
            "null",
            "give constraint.eval_loss_within=…, or set pruner=none",
        )


def fidelity(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """A probe can tell what is asked."""
    if config.fidelity != "probe+train":
        return
    if strategy == "paper":
        yield Problem(
            "strategy=paper looks at the loss of every trial", "fidelity", "probe+train", "set fidelity=train"
        )
    for item in parse_objectives(config.objective):
        if item.metric in METRICS and not METRICS[item.metric].is_probed:
            yield Problem(
                f"fidelity=probe+train needs an objective that a few steps tell, and {item.metric} is none",
                item.key,
                item.metric,
                "set fidelity=train",
            )


def discrete(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """A grid and the paper's procedure need lists of values."""
    if strategy not in ("grid", "paper"):
        return
    for key, dimension in dimensions.items():
        if not isinstance(dimension, Choices):
            who = "a grid" if strategy == "grid" else "strategy=paper"
            yield Problem(
                f"{who} needs discrete values",
                key,
                dimension.text,
                "list the values with commas, choice(…) or range(…), or set strategy=search",
            )


def paper_batch(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """The paper's procedure finds the micro batch itself."""
    micro = dimensions.get("batch.micro")
    values = micro.values if isinstance(micro, Choices) else (str(config.batch.micro),)
    if strategy == "paper" and "auto" in values:
        yield Problem(
            "strategy=paper finds the micro batch by measuring",
            "batch.micro",
            "auto",
            "leave it out, or list numbers",
        )


def something_to_search(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """A search has something to vary."""
    if strategy == "search" and not dimensions:
        yield Problem(
            "a search needs an option that varies",
            "search.n_trials",
            str(config.search.n_trials),
            "sweep one",
        )


def sampler(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """What the sampler imports is installed, and it can do what is asked."""
    name = config.search.sampler
    if name == "cmaes" and strategy in ("search", "joint") and importlib.util.find_spec("cmaes") is None:
        rule, remedy = "search.sampler=cmaes needs the package cmaes", "pip install 'finetune-sweeper[cmaes]'"
        yield Problem(rule, "search.sampler", name, remedy)
    if name == "cmaes" and len(parse_objectives(config.objective)) > 1:
        yield Problem(
            "cmaes needs a single objective", "search.sampler", name, "take search.sampler=tpe or nsgaii"
        )


def constraint_can_hold(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """What a constraint looks at is measured."""
    if config.constraint.baseline is not None:
        yield from baseline_problems(config.constraint.baseline)
    if config.constraint.baseline is not None and config.constraint.eval_loss_within is None:
        yield Problem(
            "constraint.baseline is what eval_loss_within refers to",
            "constraint.eval_loss_within",
            "null",
            "give constraint.eval_loss_within=…, or leave constraint.baseline out",
        )


def number_of_trials(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """A grid and the paper's procedure know how many cells they need."""
    if strategy in ("grid", "paper") and config.search.n_trials is not None:
        yield Problem(
            f"search.n_trials has no effect under strategy={strategy}",
            "search.n_trials",
            str(config.search.n_trials),
            "leave it out, set strategy=search, or end the study with budget.trials=…",
        )


def known_limits(config: Config, dimensions: Dimensions, strategy: str) -> Iterator[Problem]:
    """Limits are on measured metrics."""
    yield from check_limits(config.constraint)


RULES: tuple[Callable[[Config, Dimensions, str], Iterator[Problem]], ...] = (
    numbers,
    objective,
    pruner,
    fidelity,
    discrete,
    paper_batch,
    something_to_search,
    number_of_trials,
    sampler,
    constraint_can_hold,
    known_limits,
)
