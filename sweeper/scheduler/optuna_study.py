"""The Optuna study: every trial in the words of Optuna, for `optuna-dashboard` and for whoever reads it.

Its trials have the numbers of our folders. What comes next is decided by `strategies`; Optuna hears here what
was decided, and how it ended.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sweeper.contract.trial import INFEASIBLE, Outcome, TrialResult
from sweeper.ranking.objective import Objective
from sweeper.ranking.rule import Rule
from sweeper.space.dimensions import Choices, Dimension
from sweeper.study.records import TrialRecord

if TYPE_CHECKING:
    import optuna

KEY = "sweeper.key"
OUTCOME = "sweeper.outcome"
STAGE = "sweeper.stage"
OBJECTIVES = "sweeper.objectives"
WAIT_S = 2
"""How long a storage may keep a driver waiting that has trials to watch; Optuna tries up to five times."""
WORTH_A_LINE = 100
"""Missing trials that take seconds to be added."""

Say = Callable[[str], None]


class OptunaStudy:
    """One study in Optuna's storage. Every method may raise whatever the storage raises."""

    def __init__(self, name: str, storage: str, rule: Rule, swept: Mapping[str, Dimension]):
        """Open or create the study."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        asked, self._rule, self._swept = rule.objectives, rule, swept
        self._study = optuna.create_study(
            study_name=name,
            storage=_connect(storage),
            directions=["maximize" if item.maximize else "minimize" for item in asked],
            sampler=optuna.samplers.RandomSampler(seed=0),  # every trial's values are given
            load_if_exists=True,
        )
        self._objectives = self._agreed(asked)
        self._open: dict[int, optuna.Trial] = {}
        known = self._study.get_trials(deepcopy=False)
        self.count = len(known)
        """Trials that it holds."""
        self._distributions = {
            name: distribution for trial in known for name, distribution in trial.distributions.items()
        }

    def _agreed(self, asked: Sequence[Objective]) -> list[Objective]:
        """The objectives that the study was created with: Optuna holds a study to them."""
        known = self._study.user_attrs.get(OBJECTIVES)
        if known is None:
            known = [[item.metric, item.maximize] for item in asked]
            self._study.set_user_attr(OBJECTIVES, known)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # experimental since Optuna 3.2
                self._study.set_metric_names([item.metric for item in asked])
        return [Objective(metric, maximize) for metric, maximize in known]

    def hold(self, record: TrialRecord, loss: float | None) -> None:
        """Make it hold the trial as it is now: begun, or ended; `loss` as for `add`."""
        while self.count < record.number:
            self.add(None)
        if self.count == record.number:
            self.add(record, loss)
        else:
            self.tell(record, loss)

    def add(self, record: TrialRecord | None, loss: float | None = None) -> None:
        """Add the next trial, whole: as running, as it has ended, or as failed where there is no record.

        `loss` is what `eval_loss_within` refers to as far as it is known.
        """
        import optuna

        trial_id = self._study._storage.create_new_trial(self._study._study_id, self._frozen(record, loss))
        self.count += 1
        if record is not None and record.result is None:
            self._open[record.number] = optuna.Trial(self._study, trial_id)

    def _frozen(self, record: TrialRecord | None, loss: float | None) -> Any:
        """A trial in Optuna's words.

        Optuna holds each parameter to the distribution that it was first given. A parameter whose values
        the user has changed since, or that is not swept, is recorded as a user attribute instead.
        """
        from optuna.trial import TrialState, create_trial

        if record is None:
            return create_trial(state=TrialState.FAIL)
        cell, key, stage = record.spec.overrides, record.spec.key, record.spec.stage
        swept = {name: text for name, text in cell.items() if name in self._swept}
        told = {name: self._distribution(name, self._swept[name], text) for name, text in swept.items()}
        kept = {name: distribution for name, distribution in told.items() if distribution is not None}
        attributes = {KEY: key, **({STAGE: stage} if stage else {})}
        attributes |= {name: text for name, text in cell.items() if name not in kept}
        params = {name: _number(self._swept[name], cell[name]) for name in kept}
        if record.result is None:
            return create_trial(
                state=TrialState.RUNNING, params=params, distributions=kept, user_attrs=attributes
            )
        state, values = self._ending(record, record.result)
        frozen = create_trial(
            state=state,
            values=values,
            params=params,
            distributions=kept,
            user_attrs=attributes | {OUTCOME: record.result.outcome.value},
            constraints=self._constraints(record, record.result, loss),
        )
        frozen.datetime_start = _local_time(record.result.started_at) or frozen.datetime_start
        frozen.datetime_complete = _local_time(record.result.ended_at) or frozen.datetime_complete
        return frozen

    def _distribution(self, name: str, dimension: Dimension, text: str) -> Any:
        """What Optuna is told that the option may be; None when it was told otherwise before, or when the
        value lies elsewhere, as that of a baseline may."""
        from optuna.distributions import check_distribution_compatibility

        wanted = distribution_of(dimension)
        try:
            check_distribution_compatibility(self._distributions.setdefault(name, wanted), wanted)
        except ValueError:
            return None
        return wanted if _is_within(wanted, dimension, text) else None

    def tell(self, record: TrialRecord, loss: float | None = None) -> None:
        """Say how a trial ended that it knows to be running; `loss` as for `add`."""
        if record.result is None:
            return
        trial = self._open.pop(record.number, None)
        if trial is not None:
            trial.set_user_attr(OUTCOME, record.result.outcome.value)
            for name, value in self._constraints(record, record.result, loss).items():
                trial.set_constraint(name, value)
            state, values = self._ending(record, record.result)
            self._study.tell(trial, values, None if values else state)

    def _ending(self, record: TrialRecord, result: TrialResult) -> tuple[Any, list[float] | None]:
        from optuna.trial import TrialState

        values = [record.metric(item.metric) for item in self._objectives]
        known = [value for value in values if value is not None]
        if result.outcome is Outcome.COMPLETED and len(known) == len(values):
            return TrialState.COMPLETE, known
        return TrialState.PRUNED if result.outcome in (*INFEASIBLE, Outcome.PRUNED) else TrialState.FAIL, None

    def _constraints(self, record: TrialRecord, result: TrialResult, loss: float | None) -> dict[str, float]:
        """Feasible when <= 0. Running out of memory violates the memory constraint by all of it."""
        infeasible = {result.outcome.value: 1.0} if result.outcome in INFEASIBLE else {}
        probe = {"probe": 1.0} if record.is_probe else {}  # no probe is the best trial
        return {**infeasible, **probe, **self._rule.with_reference(loss).excesses(record)}

    def catch_up(
        self,
        records: Mapping[int, TrialRecord],
        loss: float | None,
        highest: int,
        say: Say = lambda line: None,
    ) -> None:
        """Bring the storage up to the folders, of which `highest` is the last: close what it believes to be
        running although no driver runs it, and add what it lacks because it was lost, is another one, or did
        not answer. Records without a result run now."""
        self._close_stale(records, loss)
        missing = range(self.count, highest + 1)
        if len(missing) > WORTH_A_LINE:
            say(f"Optuna's storage lacks {len(missing):,} trials of the study: they are added")
        for number in missing:
            self.add(records.get(number), loss)

    def _close_stale(self, records: Mapping[int, TrialRecord], loss: float | None) -> None:
        """See to trials that it believes to be running: some run, some have ended, some nobody runs."""
        import optuna
        from optuna.trial import TrialState

        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            record = records.get(frozen.number)
            trial = optuna.Trial(self._study, frozen._trial_id)
            if frozen.state is TrialState.WAITING:  # made by a version that died between two steps
                trial = self._study.ask()
            if record is None:
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            self._open[frozen.number] = trial
            if record.result is not None:
                self.tell(record, loss)


def _connect(storage: str) -> Any:
    """A storage that does not wait for long: a trial runs meanwhile, which must be watched."""
    from optuna.storages import RDBStorage

    wait = {"sqlite": "timeout", "postgresql": "connect_timeout", "mysql": "connect_timeout"}
    option = wait.get(storage.partition(":")[0].partition("+")[0])
    if option is None:
        return storage
    return RDBStorage(storage, engine_kwargs={"connect_args": {option: WAIT_S}})


def _local_time(moment: str | None) -> datetime | None:
    """A time of a record as Optuna writes times: local, without a zone."""
    return None if moment is None else datetime.fromisoformat(moment).astimezone().replace(tzinfo=None)


def distribution_of(dimension: Dimension) -> Any:
    """A dimension in Optuna's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    if dimension.integer:
        return IntDistribution(round(dimension.low), round(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _is_within(distribution: Any, dimension: Dimension, text: str) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(_number(dimension, text))))
    except ValueError:
        return False


def _number(dimension: Dimension, text: str) -> str | float | int:
    if isinstance(dimension, Choices):
        return text
    return int(text) if dimension.integer else float(text)
