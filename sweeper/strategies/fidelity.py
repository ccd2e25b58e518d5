"""Two stages of fidelity: a probe of every cell, the full training only for those that can still be best."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sweeper.contract import Outcome
from sweeper.objectives import PROBED_METRICS
from sweeper.pareto import dominates
from sweeper.ranking import violations
from sweeper.records import TrialRecord
from sweeper.space import Cell
from sweeper.strategies.base import Heard, Plan, Proposal, Question

PROBE = "probe"
TRAIN = "train"


def probe_of(cell: Cell, steps: int) -> Cell:
    """The cell, looked at for a few steps only."""
    trial = dataclasses.replace(cell.config.trial, probe_steps=cell.config.trial.warmup_steps + steps)
    return dataclasses.replace(cell, config=dataclasses.replace(cell.config, trial=trial))


class Contest:
    """What the probes promise and the trainings have shown."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._probed: list[tuple[Cell, TrialRecord]] = []
        self._entered: set[str] = set()
        """Labels of the cells whose training was proposed."""
        self._open: set[Proposal] = set()

    @property
    def probes(self) -> int:
        return len(self._probed)

    @property
    def trained(self) -> int:
        """Trainings that were proposed."""
        return len(self._entered)

    @property
    def has_room(self) -> bool:
        """Whether another training may run beside those that are open: each of them could make it needless,
        so no more than there are slots."""
        return len(self._open) < self._question.slots

    @property
    def is_over(self) -> bool:
        """Whether no training is open."""
        return not self._open

    def hear(self, heard: Sequence[Heard], originals: dict[Proposal, Proposal]) -> list[Heard]:
        """Take in results; those of probes as the source knows them."""
        told: list[Heard] = []
        for proposal, record in heard:
            self._open.discard(proposal)
            original = originals.pop(proposal, None)
            if original is not None:
                self._probed.append((original.cell, record))
                told.append((original, record))
        return told

    def enter(self, cell: Cell) -> Proposal:
        """Have the cell trained."""
        self._entered.add(cell.label)
        proposal = Proposal(cell, TRAIN)
        self._open.add(proposal)
        return proposal

    def contender(self) -> Cell | None:
        """The cell with the best probe by the first objective, of those that no trained one is as good as in
        every objective; None when none is left."""
        waiting = [
            (gains, cell)
            for cell, record in self._probed
            if cell.label not in self._entered and (gains := self._promise(record)) is not None
        ]
        reached = [self._gains(trial.record) for trial in self._question.ranking().trials if trial.rank]
        left = [
            (gains, cell)
            for gains, cell in waiting
            if not any(known == gains or dominates(known, gains) for known in reached if known)
        ]
        return max(left, key=lambda item: item[0][0])[1] if left else None

    def _promise(self, record: TrialRecord) -> tuple[float, ...] | None:
        """The gains that the probe promises; None when the cell cannot be eligible by what a probe tells."""
        if record.result is None or record.result.outcome is not Outcome.COMPLETED:
            return None
        rule = self._question.rule
        told = tuple(limit for limit in rule.limits if limit.metric in PROBED_METRICS)
        rule = dataclasses.replace(rule, eval_loss_within=None, limits=told)
        plain = {**record.spec.config, "trial": {**record.spec.config["trial"], "probe_steps": None}}
        trained = dataclasses.replace(record, spec=dataclasses.replace(record.spec, config=plain))
        return None if violations(trained, rule, None) else self._gains(record)

    def _gains(self, record: TrialRecord) -> tuple[float, ...] | None:
        gains = [objective.of(record) for objective in self._question.objectives]
        known = tuple(gain for gain in gains if gain is not None)
        return known if len(known) == len(gains) else None


def probe_and_train(question: Question, source: Plan[None]) -> Plan[None]:
    """Probe what `source` proposes, and train the contenders.

    The first cell that a probe finds possible is trained at once, so that there is a loss to compare with,
    and the best probe after every doubling of their number: a study that is cut short has an answer. At the
    end the contenders are trained, best probe first, until one that keeps every constraint is as good as
    all that is left.
    """
    contest, steps = Contest(question), question.config.search.probe_steps
    originals: dict[Proposal, Proposal] = {}
    milestone = 4
    wanted = next(source, None)
    while wanted is not None or originals:
        if wanted is not None:
            probe = Proposal(probe_of(wanted.cell, steps), PROBE)
            originals[probe] = wanted
            told = contest.hear((yield probe), originals)
        else:
            told = contest.hear((yield None), originals)
        is_due = not contest.trained or contest.probes >= milestone
        if is_due and (leader := contest.contender()) is not None:
            milestone *= 2 if contest.probes >= milestone else 1
            told += contest.hear((yield contest.enter(leader)), originals)
        if wanted is not None:
            wanted = _send(source, told)
    question.say(f"{contest.probes} cells were probed; now those that can still be best are trained")
    yield from _final(contest, originals)


def _final(contest: Contest, originals: dict[Proposal, Proposal]) -> Plan[None]:
    """Train the contenders, as many at a time as there are slots."""
    while True:
        if contest.has_room and (leader := contest.contender()) is not None:
            contest.hear((yield contest.enter(leader)), originals)
        elif contest.is_over:
            return
        else:
            contest.hear((yield None), originals)


def _send(source: Plan[None], told: Sequence[Heard]) -> Proposal | None:
    try:
        return source.send(told)
    except StopIteration:
        return None
