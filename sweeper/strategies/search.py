"""Optuna's samplers propose; impossible and repeated cells never leave this file."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.config.cell import Cell
from sweeper.contract.trial import INFEASIBLE, Outcome
from sweeper.ranking.eligibility import reference_loss
from sweeper.space.dimensions import Choices, Dimension
from sweeper.space.space import DEFAULT_TRIALS, ENUMERATED, Space
from sweeper.strategies.base import Heard, Plan, Proposal, Question
from sweeper.study.records import TrialRecord

if TYPE_CHECKING:
    import optuna

TRIES = 20
"""Proposals of the sampler that may be impossible or known before a cell is drawn at random."""
DRAWS = 2000
"""Random draws before a space counts as exhausted."""


def search(question: Question) -> Plan[None]:
    """Propose `search.n_trials` different cells, each with all that was heard before in mind."""
    proposer = Proposer(question)
    for _ in range(_draws(question.space)):
        cell = proposer.draw()
        if cell is None:
            question.say(f"the space holds no further cell: all {len(proposer.seen)} were proposed")
            return
        proposer.hear((yield Proposal(cell)))


def count_drawn(space: Space) -> int:
    """How many cells a search ends with: as many as are asked for, if so many are possible."""
    if space.size > ENUMERATED:
        return _draws(space)
    labels: set[str] = set()
    for cell in filter(None, map(space.cell, space.combinations())):
        labels.add(cell.label)
        if len(labels) == _draws(space):
            break
    return len(labels)


def _draws(space: Space) -> int:
    return int(min(space.config.search.n_trials or DEFAULT_TRIALS, space.size))


class Proposer:
    """An Optuna study in memory: what it is told are the cells' results, not the trials' ledger."""

    def __init__(self, question: Question) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._question = question
        self._space = question.space
        search = question.config.search
        directions = [optuna.study.StudyDirection.MAXIMIZE] * len(question.objectives)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = SAMPLERS[search.sampler](search.seed)
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        self._random = random.Random(search.seed)
        self._open: dict[str, optuna.Trial] = {}
        self._unseen: list[dict[str, str]] | None = None
        self.seen: set[str] = set()
        """Labels of the cells that were proposed."""

    def draw(self) -> Cell | None:
        """A cell that is possible and new; None when there is none left."""
        for _ in range(TRIES):
            trial = self._study.ask()
            cell = self._space.cell(self._suggested(trial))
            if cell is not None and cell.label not in self.seen:
                return self._proposed(cell, trial)
            self._reject(trial)
        for values in self._at_random():
            cell = self._space.cell(values)
            if cell is not None and cell.label not in self.seen:
                return self._proposed(cell, self._enqueued(values))
        return None

    def hear(self, heard: Sequence[Heard]) -> None:
        """Take in results."""
        for proposal, record in heard:
            trial = self._open.pop(proposal.cell.label, None)
            if trial is not None:
                self._tell(trial, record)

    def _proposed(self, cell: Cell, trial: optuna.Trial) -> Cell:
        self.seen.add(cell.label)
        self._open[cell.label] = trial
        return cell

    def _suggested(self, trial: optuna.Trial) -> dict[str, str]:
        return {key: _suggest(trial, key, item) for key, item in self._space.dimensions.items()}

    def _enqueued(self, values: dict[str, str]) -> optuna.Trial:
        dimensions = self._space.dimensions
        self._study.enqueue_trial({key: _parameter(dimensions[key], text) for key, text in values.items()})
        trial = self._study.ask()
        self._suggested(trial)
        return trial

    def _reject(self, trial: optuna.Trial) -> None:
        """The samplers pass over a failed trial."""
        from optuna.trial import TrialState

        self._study.tell(trial, state=TrialState.FAIL)

    def _at_random(self) -> Iterator[dict[str, str]]:
        """Every combination that is left in random order, or random ones where there is no end of them."""
        if self._space.size <= ENUMERATED:
            if self._unseen is None:
                self._unseen = list(self._space.combinations())
                self._random.shuffle(self._unseen)
            while self._unseen:
                yield self._unseen.pop()
        else:
            for _ in range(DRAWS):
                yield {key: self._drawn(item) for key, item in self._space.dimensions.items()}

    def _drawn(self, dimension: Dimension) -> str:
        if isinstance(dimension, Choices):
            return self._random.choice(dimension.values)
        return dimension.typed(self._random.uniform(dimension.low, dimension.high))

    def _tell(self, trial: optuna.Trial, record: TrialRecord) -> None:
        from optuna.trial import TrialState

        result, question = record.result, self._question
        outcome = result.outcome if result else Outcome.CANCELLED
        gains = [objective.of(record) for objective in question.objectives]
        loss = reference_loss(question.records, question.rule)
        violated = question.rule.with_reference(loss).excesses(record)
        is_infeasible = outcome in (*INFEASIBLE, Outcome.PRUNED)
        if question.config.search.sampler != "cmaes":  # which heeds no constraint, and warns of each
            for name, value in (violated | ({outcome.value: 1.0} if is_infeasible else {})).items():
                trial.set_constraint(name, value)
        if outcome is Outcome.COMPLETED and None not in gains:
            self._study.tell(trial, [gain for gain in gains if gain is not None])
        elif is_infeasible:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, state=TrialState.FAIL)


def _ordered(dimension: Choices) -> bool:
    """Whether the values are numbers in order: then their places say more than their names."""
    try:
        numbers = [float(value) for value in dimension.values]
    except ValueError:
        return False
    return len(numbers) > 2 and numbers == sorted(numbers)


def _suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> str:
    if isinstance(dimension, Choices):
        if _ordered(dimension):
            return dimension.values[trial.suggest_int(key, 0, len(dimension.values) - 1)]
        return str(trial.suggest_categorical(key, dimension.values))
    if dimension.integer:
        low, high = round(dimension.low), round(dimension.high)
        return dimension.typed(trial.suggest_int(key, low, high, log=dimension.log))
    return dimension.typed(trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log))


def _parameter(dimension: Dimension, text: str) -> str | int | float:
    """A value in the terms of `_suggest`."""
    if isinstance(dimension, Choices):
        return dimension.values.index(text) if _ordered(dimension) else text
    return int(text) if dimension.integer else float(text)


def _tpe(seed: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed)


def _random(seed: int) -> Any:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _qmc(seed: int) -> Any:
    from optuna.samplers import QMCSampler

    return QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)


def _gp(seed: int) -> Any:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed)


def _cmaes(seed: int) -> Any:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _nsgaii(seed: int) -> Any:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=20)


SAMPLERS: dict[str, Callable[[int], Any]] = {
    "tpe": _tpe,
    "random": _random,
    "qmc": _qmc,
    "gp": _gp,
    "cmaes": _cmaes,
    "nsgaii": _nsgaii,
}
"""The samplers by the names of `search.sampler`."""
