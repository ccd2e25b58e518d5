"""The paper's procedure: the batch size, then the methods, then the batch size again.

1. At a fixed effective batch the micro batch is doubled until memory ends or speed does; then the
   effective batch is taken at which the loss per token is lowest.
2. At that batch each method is measured alone against the baseline, and the good ones are combined.
3. The micro batch is doubled again with the chosen methods, because the memory they free moves the
   optimum.

The baseline is the first value of every option. Where it does not run, the best method that runs alone takes
its place, or the first ones that run together: that the plain model does not fit is what methods are for.
A method is good when it is faster, or saves memory without being slower; where memory is the objective, when
it saves memory. `effects` in `decisions.json` holds a row per added method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeper.contract.trial import Outcome
from sweeper.ranking.eligibility import violations
from sweeper.space.dimensions import Choices
from sweeper.strategies.base import Plan, Proposal, Question, measured
from sweeper.strategies.effects import (
    SIXTEEN_BIT,
    effects,
    figures_of,
    memory_of,
    micro_of,
    outcome_of,
    speed_of,
    times_against,
    tried_as,
    worth_of,
)
from sweeper.study.records import TrialRecord

MICRO, EFFECTIVE, ACCUMULATION, STEPS = "batch.micro", "batch.effective", "batch.accumulation", "train.steps"
BATCH = (MICRO, EFFECTIVE, ACCUMULATION)
TIE = 0.01
"""Losses and speeds that differ by less count as equal: about the run-to-run noise of a quiet machine."""
MOST_MICRO = 2**14

Values = dict[str, str]
Tested = tuple[str, str, TrialRecord]
"""An option, its value, and how that value did alone."""


def paper(question: Question) -> Plan[None]:
    """All three stages."""
    procedure = Procedure(question)
    try:
        yield from procedure.micro_batch("1 batch")
        yield from procedure.effective_batch()
        yield from procedure.methods()
        yield from procedure.micro_batch("3 batch again")
        yield from procedure.baselines()
    finally:
        procedure.summarise()  # also what a budget has ended early


class Procedure:
    """The values chosen so far, and how they were found."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._dimensions = {
            key: list(item.values)
            for key, item in question.space.dimensions.items()
            if isinstance(item, Choices)
        }
        self._baseline = {key: values[0] for key, values in self._dimensions.items() if key not in BATCH}
        self._methods = dict(self._baseline)
        batch = question.config.batch
        micros = self._dimensions.get(MICRO, [])
        self._micros = [int(value) for value in micros]
        self._micro = min(self._micros, default=1)
        effectives = [int(value) for value in self._dimensions.get(EFFECTIVE, [])]
        self._effective = effectives[0] if effectives else batch.effective or 16
        self._first_effective = self._effective
        self._effectives = effectives or [self._effective // 2, self._effective, self._effective * 2]
        self._added: list[tuple[str, TrialRecord]] = []

    def micro_batch(self, stage: str) -> Plan[None]:
        """Double the micro batch at the chosen effective batch; take the fastest, on a tie the smallest."""
        found: list[TrialRecord] = []
        for micro in self._doublings():
            (record,) = yield from self._measure(stage, {**self._methods, **self._batch(micro)})
            if record is None:
                continue
            found.append(record)
            if outcome_of(record) in (Outcome.OUT_OF_MEMORY, Outcome.PREDICTED_OOM):
                break
        sound = [record for record in found if self._is_sound(record)]
        if not sound:
            self._question.decide(stage, f"stage {stage}: no micro batch runs; it stays {self._micro}")
            return
        fastest = max(map(speed_of, sound))
        best = min((record for record in sound if speed_of(record) >= fastest * (1 - TIE)), key=micro_of)
        before, self._micro = self._micro, micro_of(best)
        if self._added:
            self._added.append((f"{MICRO}={self._micro}", best))
        self._question.decide(
            stage,
            f"stage {stage}: {MICRO}={self._micro}, {figures_of(best)}; tried "
            f"{', '.join(map(tried_as, found))} at {EFFECTIVE}={self._effective}"
            + (f"; it was {before} before" if stage.startswith("3") else ""),
            chosen=self._batch(self._micro),
            trials=[record.number for record in found],
        )

    def _doublings(self) -> list[int]:
        """The micro batches to try: those that were named, or doublings, that divide the effective one."""
        named = sorted(self._micros) or [2**power for power in range(MOST_MICRO.bit_length())]
        return [micro for micro in named if micro <= self._effective and self._effective % micro == 0]

    def effective_batch(self) -> Plan[None]:
        """Train on equal tokens with each effective batch; lowest loss, the larger batch on a tie."""
        stage = "1 effective batch"
        sizes = sorted(size for size in self._effectives if size % self._micro == 0 and size >= self._micro)
        records = yield from self._measure(
            stage,
            *({**self._methods, **self._batch(self._micro, size)} for size in sizes),
        )
        known = [
            (size, record, loss)
            for size, record in zip(sizes, records, strict=True)
            if record is not None and outcome_of(record) is Outcome.COMPLETED
            if (loss := record.metric("eval_loss")) is not None
        ]
        if not known:
            self._question.decide(stage, f"stage {stage}: no loss was measured; it stays {self._effective}")
            return
        lowest = min(loss for _, _, loss in known)
        within = [(size, record) for size, record, loss in known if loss <= lowest * (1 + TIE)]
        self._effective, _ = max(within, key=lambda item: item[0])
        losses = ", ".join(f"{size}: {loss:.4f}" for size, _, loss in known)
        self._question.decide(
            stage,
            f"stage {stage}: {EFFECTIVE}={self._effective}; evaluation loss at equal tokens {losses}; "
            f"the largest within {TIE:.0%} of the lowest",
            chosen=self._batch(self._micro),
            trials=[record.number for _, record, _ in known],
        )

    def _equal_tokens(self, effective: int) -> Values:
        """Steps that make the number of sequences equal; a token budget does so already."""
        config = self._question.config
        if config.train.token_budget is not None or config.train.steps is None:
            return {}
        steps = max(
            config.trial.warmup_steps + 1, round(config.train.steps * self._first_effective / effective)
        )
        return {} if steps == config.train.steps else {STEPS: str(steps)}

    def methods(self) -> Plan[None]:
        """Each method alone against the baseline, then the good ones together, one after the other."""
        stage = "2 methods"
        batch = self._batch(self._micro)
        options = [
            (key, value)
            for key, values in self._dimensions.items()
            if key not in BATCH
            for value in values[1:]
        ]
        base, *alone = yield from self._measure(
            stage,
            {**self._baseline, **batch},
            *({**self._baseline, key: value, **batch} for key, value in options),
        )
        tested = [
            (key, value, record)
            for (key, value), record in zip(options, alone, strict=True)
            if record is not None
        ]
        if base is not None and self._is_sound(base):
            self._added.append(("baseline", base))
            yield from self._combine(stage, base, self._good(stage, base, tested))
            return
        foothold = yield from self._foothold(stage, base, tested)
        if foothold is not None:
            rest = [item for item in tested if self._methods[item[0]] != item[1]]
            yield from self._combine(stage, foothold, rest)

    def _foothold(
        self, stage: str, base: TrialRecord | None, tested: Sequence[Tested]
    ) -> Plan[TrialRecord | None]:
        """A state that runs where the baseline does not: the best single method, else the first value of each
        option that is no baseline's, one after the other until it runs."""
        why = "it is impossible" if base is None else "; ".join(violations(base, self._question.rule, None))
        sound = [item for item in tested if self._is_sound(item[2])]
        if sound:
            key, value, record = max(sound, key=lambda item: self._merit(item[2]))
            return self._stand_on(stage, why, {**self._methods, key: value}, record)
        tried = dict(self._methods)
        for option, values in self._dimensions.items():
            if option in BATCH or len(values) < 2:
                continue
            (found,) = yield from self._measure(
                stage, {**tried, option: values[1], **self._batch(self._micro)}
            )
            if found is None:
                continue  # impossible beside the others
            tried[option] = values[1]
            if self._is_sound(found):
                return self._stand_on(stage, why, tried, found)
        text = f"stage {stage}: the baseline did not run ({why}), nor did any method alone or all together"
        self._question.decide(stage, text)
        return None

    def _stand_on(self, stage: str, why: str, methods: Values, record: TrialRecord) -> TrialRecord:
        changed = [f"{key}={value}" for key, value in methods.items() if value != self._baseline[key]]
        self._methods = methods
        self._added.append((" ".join(changed), record))
        text = f"stage {stage}: the baseline did not run ({why}); {' '.join(changed)} takes its place"
        self._question.decide(stage, text, trials=[record.number])
        return record

    def _merit(self, record: TrialRecord) -> float:
        gain = self._question.objectives[0].of(record)
        return float("-inf") if gain is None else gain

    def _good(self, stage: str, base: TrialRecord, tested: Sequence[Tested]) -> list[Tested]:
        """The methods that help, best first; of the values of one option the best one."""
        best: dict[str, Tested] = {}
        for key, value, record in tested:
            why = self._against(base, record)
            helps = why.startswith("good")
            self._question.decide(
                stage, f"stage {stage}: {key}={value} alone is {why}", trials=[record.number]
            )
            if helps and (key not in best or worth_of(base, record) > worth_of(base, best[key][2])):
                best[key] = (key, value, record)
        return sorted(best.values(), key=lambda item: -worth_of(base, item[2]))

    def _against(self, base: TrialRecord, record: TrialRecord) -> str:
        """What a method alone does to the baseline, and whether that is good."""
        if not self._is_sound(record):
            broken = violations(record, self._question.rule, base.metric("eval_loss"))
            return f"left out: {'; '.join(broken)}"
        speed, memory = speed_of(record) / speed_of(base), memory_of(record) / memory_of(base)
        loss, reference = record.metric("eval_loss"), base.metric("eval_loss")
        figures = f"{speed:.2f}x speed, {memory:.2f}x memory"
        if loss is not None and reference is not None:
            figures += f", evaluation loss {loss:.4f} against {reference:.4f}"
            if self._loses_loss(base, record):
                return f"left out: {figures}"
        return f"good: {figures}" if self._is_good(speed, memory) else f"left out: {figures}"

    def _is_good(self, speed: float, memory: float) -> bool:
        """Whether a state of so many times the speed and memory of another is the better one."""
        saves = memory < 1 - TIE
        if "memory" in self._question.objectives[0].metric:
            return saves
        return speed > 1 + TIE or (saves and speed >= 1 - TIE)

    def _combine(self, stage: str, base: TrialRecord, good: Sequence[Tested]) -> Plan[None]:
        """Add one good method after the other; keep each that still helps beside the others."""
        reached = base
        for key, value, alone in good:
            tried = {**self._methods, key: value}
            if tried == {**self._baseline, key: value}:
                record: TrialRecord | None = alone  # the first one was measured already
            else:
                (record,) = yield from self._measure(stage, {**tried, **self._batch(self._micro)})
            if record is None:
                self._question.decide(stage, f"stage {stage}: {key}={value} does not go with the others")
                continue
            why = self._against(reached, record)
            kept = why.startswith("good") and not self._loses_loss(base, record)
            verdict = "kept" if kept else "not kept"
            self._question.decide(
                stage, f"stage {stage}: {key}={value} added to the others is {why}; {verdict}", kept=kept
            )
            if kept:
                self._methods, reached = tried, record
                self._added.append((f"{key}={value}", record))

    def _loses_loss(self, base: TrialRecord, record: TrialRecord) -> bool:
        loss = record.metric("eval_loss")
        allowed = self._question.rule.allowed_loss(base.metric("eval_loss"))
        return loss is not None and allowed is not None and loss > allowed

    def baselines(self) -> Plan[None]:
        """The plain cells that the effects are told against: fp32, and the first 16-bit precision."""
        swept = self._dimensions.get("precision") or [self._question.config.precision]
        half = [name for name in SIXTEEN_BIT if name in swept]
        for precision in [name for name in ("fp32", *half[:1]) if name in swept]:
            yield from self._measure("baselines", self.plain(precision))

    def plain(self, precision: str) -> Values:
        """The baseline in this precision, at the chosen batch."""
        swept = {"precision": precision} if "precision" in self._dimensions else {}
        return {**self._baseline, **swept, **self._plain_batch()}

    def _plain_batch(self) -> Values:
        """The batch at which the methods were compared: that of the first row."""
        first = self._added[0][1].spec.overrides if self._added else self._batch(self._micro)
        return {key: first[key] for key in (MICRO, EFFECTIVE, STEPS) if key in first}

    def summarise(self) -> None:
        """Note the cumulative effect: a row per added method."""
        rows = effects(self._question.records, self._added, self.plain)
        if not rows:
            return
        last = rows[-1]
        self._question.decide(
            "summary",
            f"all together: {times_against(last, 'fp32')} against fp32, "
            f"{times_against(last, '16bit')} against 16 bit",
            effects=rows,
        )

    def _batch(self, micro: int, effective: int | None = None) -> Values:
        """A batch at which as many sequences are trained on as at any other."""
        effective = effective or self._effective
        return {MICRO: str(micro), EFFECTIVE: str(effective), **self._equal_tokens(effective)}

    def _measure(self, stage: str, *asked: Mapping[str, str]) -> Plan[list[TrialRecord | None]]:
        """Measure these; None for one that is impossible."""
        cells = [self._question.space.cell(values) for values in asked]
        possible = [Proposal(cell, stage, prunable=False) for cell in cells if cell is not None]
        records = iter((yield from measured(possible)))
        return [None if cell is None else next(records) for cell in cells]

    def _is_sound(self, record: TrialRecord) -> bool:
        """It ran, and keeps the constraints on memory and speed."""
        return outcome_of(record) is Outcome.COMPLETED and not violations(record, self._question.rule, None)
