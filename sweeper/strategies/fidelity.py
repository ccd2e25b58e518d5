"""Two stages of fidelity: a probe of every cell, the full training only for those that can still be best."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sweeper.contract import Outcome
from sweeper.ranking import violations
from sweeper.records import TrialRecord
from sweeper.space import Cell
from sweeper.strategies.base import Heard, Plan, Proposal, Question, measured

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

    @property
    def probes(self) -> int:
        return len(self._probed)

    def hear(self, cell: Cell, record: TrialRecord) -> None:
        """A probe has ended."""
        self._probed.append((cell, record))

    def enter(self, cell: Cell) -> Proposal:
        """Have the cell trained."""
        self._entered.add(cell.label)
        return Proposal(cell, TRAIN)

    def contender(self) -> Cell | None:
        """The cell with the best probe, unless one that was trained is as good or none is left."""
        waiting = [
            (gain, cell)
            for cell, record in self._probed
            if cell.label not in self._entered and (gain := self._promise(record)) is not None
        ]
        if not waiting:
            return None
        gain, cell = max(waiting, key=lambda item: item[0])
        best = self._question.ranking().best
        reached = self._question.objectives[0].of(best) if best else None
        return cell if reached is None or gain > reached else None

    def _promise(self, record: TrialRecord) -> float | None:
        """The gain that the probe promises; None when the cell cannot be eligible."""
        if record.result is None or record.result.outcome is not Outcome.COMPLETED:
            return None
        rule = dataclasses.replace(self._question.rule, eval_loss_within=None)
        plain = {**record.spec.config, "trial": {**record.spec.config["trial"], "probe_steps": None}}
        trained = dataclasses.replace(record, spec=dataclasses.replace(record.spec, config=plain))
        return None if violations(trained, rule, None) else self._question.objectives[0].of(record)


def probe_and_train(question: Question, source: Plan[None]) -> Plan[None]:
    """Probe what `source` proposes, and train the contenders.

    The first cell is trained at once, so that there is a loss to compare with, and the best probe after
    every doubling of their number: a study that is cut short has an answer. At the end the contenders
    are trained, best probe first, until one that keeps every constraint is as good as all that is left.
    """
    contest, steps = Contest(question), question.config.search.probe_steps
    originals: dict[Proposal, Proposal] = {}
    milestone = 4
    heard: Sequence[Heard] = ()
    wanted = next(source, None)
    while wanted is not None or originals:
        if wanted is not None:
            probe = Proposal(probe_of(wanted.cell, steps), PROBE)
            originals[probe] = wanted
            heard = yield probe
        else:
            heard = yield None
        told = _hear(contest, originals, heard)
        if contest.probes == 1 and told:
            heard = yield contest.enter(told[0][0].cell)
            told += _hear(contest, originals, heard)
        if contest.probes >= milestone and (leader := contest.contender()):
            milestone *= 2
            heard = yield contest.enter(leader)
            told += _hear(contest, originals, heard)
        if wanted is not None:
            wanted = _send(source, told)
    question.say(f"{contest.probes} cells were probed; now those that can still be best are trained")
    while (leader := contest.contender()) is not None:
        yield from measured([contest.enter(leader)])


def _hear(contest: Contest, originals: dict[Proposal, Proposal], heard: Sequence[Heard]) -> list[Heard]:
    """Take in results; those of probes as the source knows them."""
    told: list[Heard] = []
    for proposal, record in heard:
        original = originals.pop(proposal, None)
        if original is not None:
            contest.hear(original.cell, record)
            told.append((original, record))
    return told


def _send(source: Plan[None], told: Sequence[Heard]) -> Proposal | None:
    try:
        return source.send(told)
    except StopIteration:
        return None
