"""What whoever follows a study is told of its trials."""

from __future__ import annotations

from sweeper.contract.trial import TrialProgress
from sweeper.study.records import TrialRecord


class Observer:
    """Is told of every trial as it runs. What does not matter to an observer it leaves as it is here."""

    def on_start(self, trial: TrialRecord) -> None:
        """A trial begins: it has no result yet."""

    def on_line(self, trial: TrialRecord, line: TrialProgress) -> str | None:
        """A running trial wrote a line; why it should end early, or None."""
        return None

    def on_end(self, trial: TrialRecord) -> None:
        """A trial has its result; one that needed not be started was never told to begin."""
