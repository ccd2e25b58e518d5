"""The strategy's side of a run: what it proposed, what it was told, and how it is led back there.

A study is resumed by playing it again: the strategy proposes as it did, and is told the results that lie
in the trial folders at the same moments. `TrialSpec.heard` says which results it had heard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sweeper.strategies.base import Heard, Proposal, Question
from sweeper.strategies.plan import plan
from sweeper.study.records import TrialRecord

Key = Callable[[Proposal], str]
Show = Callable[[Proposal, TrialRecord], None]


class Asking:
    """Drives one strategy."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self._plan = plan(question)
        self._news: list[Heard] = []
        self._numbers: list[int] = []
        self._told: set[str] = set()
        self._begun = False
        self.unmeasured: list[Proposal] = []
        """Proposals that an earlier run made and did not see to their end."""
        self.finished = False
        """Whether the strategy has nothing more to propose, whatever it hears."""

    def propose(self) -> Proposal | None:
        """The next cell; None when the strategy waits for results, or is done."""
        if self.finished:
            return None
        news, self._news = self._news, []
        try:
            proposal = self._plan.send(news) if self._begun else next(self._plan)
        except StopIteration:
            self.finished = True
            return None
        self._begun = True
        self.question.open += proposal is not None
        return proposal

    def tell(self, proposal: Proposal, record: TrialRecord) -> None:
        """A proposed cell has been measured."""
        self.question.records.append(record)
        self.question.open -= 1
        self._news.append((proposal, record))
        self._numbers.append(record.number)
        self._told.add(record.spec.key)

    def close(self) -> None:
        """Ask for nothing more: the strategy says what it has found so far."""
        self._plan.close()
        self.finished = True

    def heard(self) -> list[int]:
        """Numbers of the trials told since this was last asked."""
        numbers, self._numbers = self._numbers, []
        return numbers

    def replay(
        self, records: Sequence[TrialRecord], settled: Mapping[str, TrialRecord], key: Key, show: Show
    ) -> None:
        """Tell the strategy of settled trials in the order in which it heard of them.

        `records`: every trial of the study, in the order of their numbers. `settled`: the result of each
        key that has one. `show` sees every proposal that has a result. Afterwards `unmeasured` holds those
        that have none.
        """
        waiting: dict[str, tuple[int, Proposal]] = {}
        key_of = {record.number: record.spec.key for record in records}
        met: set[str] = set()
        for record in records:
            for number in record.spec.heard:
                told = key_of.get(number, "")
                if told in waiting:
                    self.tell(waiting.pop(told)[1], settled[told])
            self.heard()  # they are in a trial's list already
            own = record.spec.key
            if own in met:
                continue  # cut off or retried: the proposal is the one that was made for the first of them
            met.add(own)
            proposal = self._replayed(settled, own, key)
            if proposal is None:
                break
            if own in settled and key(proposal) == own:
                waiting[own] = (record.number, proposal)
                show(proposal, settled[own])
                continue
            self.unmeasured.append(proposal)
            if key(proposal) != own:
                break  # the question has changed: go on from here
        for told, (_, proposal) in sorted(waiting.items(), key=lambda item: item[1][0]):
            self.tell(proposal, settled[told])

    def _replayed(self, settled: Mapping[str, TrialRecord], wanted: str, key: Key) -> Proposal | None:
        """The next proposal that is not a repetition of one told before."""
        while (proposal := self.propose()) is not None:
            own = key(proposal)
            if own == wanted or own not in self._told or own not in settled:
                return proposal
            self.tell(proposal, settled[own])
        return None
