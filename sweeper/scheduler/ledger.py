"""The Optuna study: the ledger of every trial, for `optuna-dashboard` and for whoever reads it.

Trial numbers are Optuna's, so that the dashboard and our folders speak of the same trial. What comes
next is decided by `strategies`; Optuna hears here what was decided, and how it ended.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.contract.trial import INFEASIBLE, Outcome, TrialResult
from sweeper.ranking.objective import Objective
from sweeper.ranking.rule import Rule
from sweeper.space.dimensions import Choices, Dimension
from sweeper.study.masking import mask
from sweeper.study.records import TrialRecord

if TYPE_CHECKING:
    import optuna

KEY = "sweeper.key"
OUTCOME = "sweeper.outcome"
STAGE = "sweeper.stage"
OBJECTIVES = "sweeper.objectives"


class OptunaStudy:
    """One study in Optuna's storage."""

    def __init__(self, name: str, storage: str, rule: Rule):
        """Open or create the study. Raises StorageError when the storage does not answer."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        asked, self._rule = rule.objectives, rule
        try:
            self._study = optuna.create_study(
                study_name=name,
                storage=storage,
                directions=["maximize" if item.maximize else "minimize" for item in asked],
                sampler=optuna.samplers.RandomSampler(seed=0),  # every trial's values are given
                load_if_exists=True,
            )
        except Exception as error:  # the storage may be any database: whatever it raises, it is no answer
            raise StorageError(
                f"`study.storage` must be an Optuna storage that answers, but {mask(storage)} raised "
                f"{type(error).__name__}: {mask(str(error))}"
            ) from error
        self._objectives = self._agreed(asked)
        self._open: dict[int, optuna.Trial] = {}
        self._distributions = {
            name: distribution
            for trial in self._study.get_trials(deepcopy=False)
            for name, distribution in trial.distributions.items()
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

    def ask(self, cell: Mapping[str, str], swept: Mapping[str, Dimension], key: str, stage: str = "") -> int:
        """Begin a trial of this cell; its number.

        Optuna holds each parameter to the distribution that it was first given. A parameter whose values
        the user has changed since, or that is not swept, is recorded as a user attribute instead.
        """
        distributions = {
            name: self._distribution(name, swept[name], text) for name, text in cell.items() if name in swept
        }
        kept = {
            name: distribution for name, distribution in distributions.items() if distribution is not None
        }
        params = {name: _number(swept[name], cell[name]) for name in kept}
        attributes = {KEY: key, **({STAGE: stage} if stage else {})}
        attributes |= {name: text for name, text in cell.items() if name not in kept}
        self._study.enqueue_trial(params, user_attrs=attributes)
        trial = self._study.ask(fixed_distributions=kept)
        self._open[trial.number] = trial
        return trial.number

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

    def tell(self, number: int, record: TrialRecord, loss: float | None = None) -> None:
        """Say how the trial ended; `loss` is what `eval_loss_within` refers to as far as it is known.

        A trial that Optuna knows to have ended is left alone.
        """
        trial = self._open.pop(number, None) or self._running(number)
        if trial is not None and record.result is not None:
            trial.set_user_attr(OUTCOME, record.result.outcome.value)
            self._constrain(trial, record, record.result, loss)
            self._close(trial, record, record.result)

    def _close(self, trial: Any, record: TrialRecord, result: TrialResult) -> None:
        from optuna.trial import TrialState

        values = [record.metric(item.metric) for item in self._objectives]
        known = [value for value in values if value is not None]
        if result.outcome is Outcome.COMPLETED and len(known) == len(values):
            self._study.tell(trial, known)
        elif result.outcome in (*INFEASIBLE, Outcome.PRUNED):
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def catch_up(
        self,
        records: Mapping[int, TrialRecord],
        swept: Mapping[str, Dimension],
        loss: float | None,
        highest: int,
    ) -> None:
        """Bring the storage up to the folders, of which `highest` is the last: close what it believes to be
        running although no driver runs it, and add what it lacks because it was lost or is another one."""
        from optuna.trial import TrialState

        self.close_stale(records, loss)
        for number in range(len(self._study.get_trials(deepcopy=False)), highest + 1):
            record = records.get(number)
            if record is None:
                self._study.tell(self._study.ask(), state=TrialState.FAIL)
            else:
                self.ask(record.spec.overrides, swept, record.spec.key, record.spec.stage)
                self.tell(number, record, loss)

    def close_stale(self, records: Mapping[int, TrialRecord], loss: float | None) -> None:
        """Tell Optuna of trials that it believes to be running although no driver runs them."""
        from optuna.trial import TrialState

        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            record = records.get(frozen.number)
            if frozen.state is TrialState.WAITING:
                self._drop(frozen)
            elif record is not None and record.result is not None:
                self.tell(frozen.number, record, loss)
            else:
                self._study.tell(self._running(frozen.number), state=TrialState.FAIL)

    def _drop(self, frozen: Any) -> None:
        """An enqueued cell that no driver asked for: the driver died in between."""
        from optuna.trial import TrialState

        trial = self._study.ask()
        if trial.number != frozen.number:
            return
        self._study.tell(trial, state=TrialState.FAIL)

    def _running(self, number: int) -> Any:
        import optuna

        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.number == number and not frozen.state.is_finished():
                return optuna.Trial(self._study, frozen._trial_id)
        return None

    def _constrain(self, trial: Any, record: TrialRecord, result: TrialResult, loss: float | None) -> None:
        """Feasible when <= 0. Running out of memory violates the memory constraint by all of it."""
        if result.outcome in INFEASIBLE:
            trial.set_constraint(result.outcome.value, 1.0)
        if record.is_probe:
            trial.set_constraint("probe", 1.0)  # no probe is the best trial
        for name, value in self._rule.with_reference(loss).excesses(record).items():
            trial.set_constraint(name, value)


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


class StorageError(RuntimeError):
    """Optuna's storage cannot be used."""
