"""What a production run kept is told from noise."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.analysis.cells import MeasuredCell
from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import Measurements
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from sweeper.production.promise import compare
from sweeper.study.records import TrialRecord

MIB = 2**20


def record(peak_mib: int, with_checkpoints_mib: int) -> TrialRecord:
    """A finished run with its peak of training, and a higher one elsewhere."""
    measured = Measurements(
        peak_memory_train_bytes=peak_mib * MIB, peak_memory_bytes=with_checkpoints_mib * MIB
    )
    spec = TrialSpec("study", 0, "key", config={})
    return TrialRecord(spec, TrialResult(Outcome.COMPLETED, measurements=measured), TrialFolder(Path("none")))


@pytest.mark.parametrize(
    ("promised", "kept", "is_outside"),
    [(80, 87, False), (80, 89, True), (2000, 2090, False), (2000, 2110, True), (2000, 1000, False)],
)
def test_peak_of_training_is_compared_beyond_the_noise_of_either_size(
    promised: int, kept: int, is_outside: bool
) -> None:
    (figure,) = compare(MeasuredCell((record(promised, promised),), {}), record(kept, 10 * kept))
    assert (figure.metric, figure.is_outside) == ("peak_memory_train_bytes", is_outside)
    assert "at least 8 MiB" in figure.note
