"""What driver and trial share: options, records, and the files of a trial's folder. Standard library only."""

from __future__ import annotations

from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import Measurements
from sweeper.contract.trial import Outcome, Problem, TrialResult, TrialSpec

__all__ = ["Config", "Measurements", "Outcome", "Problem", "TrialFolder", "TrialResult", "TrialSpec"]
