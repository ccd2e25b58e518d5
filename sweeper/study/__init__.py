"""The folder of a study and the records in it."""

from __future__ import annotations

from sweeper.study.folder import StudyFolder
from sweeper.study.records import StudyRecord, TrialRecord

__all__ = ["StudyFolder", "StudyRecord", "TrialRecord"]
