"""All studies below a folder: how far each is and what it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sweeper.analysis.asked import select_asked
from sweeper.analysis.open import BROKEN, OpenStudy, describe_damage, opened, study_folders
from sweeper.contract.json_files import read_json
from sweeper.contract.trial import Outcome
from sweeper.study.folder import StudyFolder
from sweeper.study.records import TrialRecord

State = Literal["running", "ended", "incomplete", "empty", "unreadable"]


@dataclass(frozen=True)
class Summary:
    """One study in a list."""

    name: str
    state: State
    """`running`: a process holds it. `ended`: every cell is settled. `incomplete`: interrupted, the same
    command continues. `empty`: nothing ran yet. `unreadable`: the record is broken."""
    outcomes: dict[str, int]
    """Outcome -> trials that ended so."""
    settled: int
    """Cells that are settled."""
    asked: int | None
    """Cells that were asked for; None when the search decides as it goes."""
    best: TrialRecord | None = None
    metric: str | None = None
    """The objective of the study's own rule."""
    created_at: str | None = None
    problem: str | None = None
    """Why it is unreadable."""

    def progress(self) -> str:
        """How many cells are settled, for a person."""
        if self.asked is None:
            return f"{self.settled} cells"
        return f"{self.settled} of {max(self.asked, self.settled)} cells"


def summaries(root: Path) -> Iterator[Summary]:
    """Every study below a root, by name."""
    for folder in study_folders(root):
        try:
            found = summary(opened(folder))
        except BROKEN as error:
            name = folder.path.name
            found = Summary(name, "unreadable", {}, 0, None, problem=describe_damage(error))
        yield found


def summary(study: OpenStudy, running: bool | None = None) -> Summary:
    """How far a study is. `running`: whether a driver is at it, for who holds its lock; None: look."""
    own = list(select_asked(study.record, study.trials).kept)
    ended = Counter(record.result.outcome.value for record in own if record.result)
    settled, asked = len(study.choice.cells), study.record.cells
    busy = study.folder.is_locked() if running is None else running
    return Summary(
        name=study.record.name,
        state="running" if busy else _state(study.folder, own, settled, asked),
        outcomes=dict(sorted(ended.items())),
        settled=settled,
        asked=asked,
        best=study.choice.ranking.best,
        metric=study.rule.metric,
        created_at=study.record.created_at,
    )


def _state(folder: StudyFolder, own: list[TrialRecord], settled: int, asked: int | None) -> State:
    if not own:
        return "empty"
    if folder.ranking_json.exists() and _was_concluded(folder, own):
        cut_off = {record.label for record in own if _is_cut_off(record)}
        done = {record.label for record in own if not _is_cut_off(record)}
        if not cut_off - done and (asked is None or settled >= asked):
            return "ended"
    return "incomplete"


def _is_cut_off(record: TrialRecord) -> bool:
    return record.result is None or record.result.outcome is Outcome.CANCELLED


def _was_concluded(folder: StudyFolder, own: list[TrialRecord]) -> bool:
    """Whether the verdict on disk knows the last settled trial."""
    try:
        rows = read_json(folder.ranking_json)["trials"]
        ranked = {number for row in rows for number in row.get("trials", [row["number"]])}
    except (ValueError, TypeError, KeyError, AttributeError):  # broken, or of another version
        return False
    settled = [record.number for record in own if not _is_cut_off(record)]
    return not settled or (bool(ranked) and max(settled) <= max(ranked))
