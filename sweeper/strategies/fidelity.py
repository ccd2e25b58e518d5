"""Two stages of fidelity: a probe of every cell, the full training only for those that can still be best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from sweeper.config.cell import Cell
from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import METRICS
from sweeper.contract.scopes import loss_key
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from sweeper.ranking.eligibility import reference_loss, violations
from sweeper.ranking.pareto import dominates
from sweeper.strategies.base import Heard, Plan, Proposal, Question
from sweeper.study.records import TrialRecord

PROBE = "probe"
TRAIN = "train"
ROUNDING = 0.02
"""How far apart the losses of cells may be that train alike (`losses`)."""
MOST_TRAININGS = 0.5
"""Different trainings per probed cell above which one cell's loss says too little of the others'."""


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
        self._trained: dict[str, TrialRecord] = {}
        """Label -> training, of the cells that were probed before."""
        self._kinds: dict[str, str] = {}
        """Label -> loss key of the cells whose probes promise something."""
        self._losses: dict[str, float] = {}
        """Loss key -> the lowest loss that a training of it has reached."""

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
            if proposal in self._open:
                self._hear_training(proposal, record)
            original = originals.pop(proposal, None)
            if original is not None:
                self._probed.append((original.cell, record))
                if self._promise(record) is not None:
                    self._kinds[original.cell.label] = loss_key(original.cell.config)
                told.append((original, record))
        return told

    def _hear_training(self, proposal: Proposal, record: TrialRecord) -> None:
        self._open.discard(proposal)
        self._trained[proposal.cell.label] = record
        loss = record.metric("eval_loss")
        if loss is not None and record.result and record.result.outcome is Outcome.COMPLETED:
            key = loss_key(proposal.cell.config)
            self._losses[key] = min(loss, self._losses.get(key, math.inf))

    def enter(self, cell: Cell) -> Proposal:
        """Have the cell trained."""
        self._entered.add(cell.label)
        proposal = Proposal(cell, TRAIN)
        self._open.add(proposal)
        return proposal

    def is_hopeless(self, cell: Cell) -> bool:
        """Whether a cell that trains alike has shown that its loss breaks the rule."""
        most = self._most_loss()
        return most is not None and bool(self._losses) and self._losses.get(loss_key(cell.config), 0.0) > most

    def refusal(self, proposal: Proposal) -> TrialRecord:
        """What the source is told of a hopeless cell: that it is infeasible."""
        result = TrialResult(Outcome.PRUNED, "a cell that trains alike has broken the rule")
        spec = TrialSpec("", -1, "", proposal.cell.config.to_dict(), dict(proposal.cell.overrides))
        return TrialRecord(spec, result, TrialFolder(Path("-")))

    def _most_loss(self) -> float | None:
        """The highest loss that the rule allows now, with room for rounding; later it can only be lower."""
        rule = self._question.rule
        if not self._losses:
            return None
        lowest = min(self._losses.values()) if rule.baseline is None else self._baseline_loss()
        allowed = rule.allowed_loss(lowest)
        return None if allowed is None else allowed * (1 + ROUNDING)

    def _baseline_loss(self) -> float | None:
        return reference_loss(self._question.records, self._question.rule)

    def unknown_kinds(self) -> set[str]:
        """Loss keys of promising cells of which none was trained. None of them need to be, where the rule
        refers to no loss of the study, or where nearly every cell is a training of its own."""
        rule, kinds = self._question.rule, set(self._kinds.values())
        if rule.loss_limit is None or rule.baseline is not None:
            return set()
        if len(kinds) > MOST_TRAININGS * len(self._kinds):
            return set()
        return kinds - set(self._losses) - {loss_key(proposal.cell.config) for proposal in self._open}

    def contender(self) -> Cell | None:
        """The cell to train next, None when none is left: of those whose loss nobody knows yet, where each
        loss could move what the rule allows; else of those that no trained one is as good as in every
        objective. The best probe by the first objective comes first."""
        waiting, kinds = self._waiting(), self.unknown_kinds()
        if unknown := [(gains, cell) for gains, cell in waiting if self._kinds[cell.label] in kinds]:
            return max(unknown, key=lambda item: item[0][0])[1]
        reached = [self._gains(trial.record) for trial in self._question.ranking().trials if trial.rank]
        left = [
            (gains, cell)
            for gains, cell in waiting
            if not any(known == gains or dominates(known, gains) for known in reached if known)
        ]
        return max(left, key=lambda item: item[0][0])[1] if left else None

    def _waiting(self) -> list[tuple[tuple[float, ...], Cell]]:
        """Cells that may still be eligible by their probe and by the losses of those that train alike, each
        with the most that its probe leaves to hope for."""
        surprises, most = self._surprises(), self._most_loss()
        return [
            (tuple(gain + share * abs(gain) for gain, share in zip(gains, surprises, strict=True)), cell)
            for cell, record in self._probed
            if cell.label not in self._entered and (gains := self._promise(record)) is not None
            if most is None or self._losses.get(self._kinds[cell.label], 0.0) <= most
        ]

    def _surprises(self) -> tuple[float, ...]:
        """By what share of its probe a training was better, at most so far: how far probes are to be
        trusted. One number per objective, at least 0."""
        found = [0.0] * len(self._question.objectives)
        for cell, probe in self._probed:
            trained = self._trained.get(cell.label)
            pair = (self._gains(probe), self._gains(trained)) if trained else (None, None)
            for place, (before, after) in enumerate(zip(*(gains or () for gains in pair), strict=False)):
                found[place] = max(found[place], (after - before) / abs(before) if before else 0.0)
        return tuple(found)

    def _promise(self, record: TrialRecord) -> tuple[float, ...] | None:
        """The gains that the probe promises; None when the cell cannot be eligible by what a probe tells."""
        if record.result is None or record.result.outcome is not Outcome.COMPLETED:
            return None
        rule = self._question.rule.about([name for name, metric in METRICS.items() if metric.is_probed])
        plain = {**record.spec.config, "trial": {**record.spec.config["trial"], "probe_steps": None}}
        trained = dataclasses.replace(record, spec=dataclasses.replace(record.spec, config=plain))
        return None if violations(trained, rule, None) else self._gains(record)

    def _gains(self, record: TrialRecord) -> tuple[float, ...] | None:
        gains = [objective.of(record) for objective in self._question.objectives]
        known = tuple(gain for gain in gains if gain is not None)
        return known if len(known) == len(gains) else None


def probe_and_train(question: Question, source: Plan[None]) -> Plan[None]:
    """Probe what `source` proposes, and train the contenders.

    A cell is not even probed once another that trains alike has broken the rule by its loss: one cell of each
    kind of training is trained as soon as there are clearly fewer kinds than cells.
    The first cell that a probe finds possible is trained at once, so that there is a loss to compare with,
    and the best probe after every doubling of their number: a study that is cut short has an answer. At the
    end one cell of each kind of training is trained, for any of them may have the lowest loss, which the
    others are held against; then the contenders whose kind keeps the rule, best probe first, until one that
    keeps every constraint is as good as all that is left.
    """
    contest, steps = Contest(question), question.config.search.probe_steps
    originals: dict[Proposal, Proposal] = {}
    milestone = 4
    wanted = next(source, None)
    while wanted is not None or originals:
        if wanted is not None and contest.is_hopeless(wanted.cell):
            wanted = _send(source, [(wanted, contest.refusal(wanted))])
            continue
        if wanted is not None:
            probe = Proposal(probe_of(wanted.cell, steps), PROBE)
            originals[probe] = wanted
            told = contest.hear((yield probe), originals)
        else:
            told = contest.hear((yield None), originals)
        is_due = not contest.trained or contest.probes >= milestone or contest.unknown_kinds()
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
