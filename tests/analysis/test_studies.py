"""How far a study is, told from what it asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.analysis.open import opened
from sweeper.analysis.studies import summary
from sweeper.study.folder import StudyFolder
from sweeper.study.records import StudyRecord
from tests.support.recorded import play

GRID = ("lora.r=4,8", "checkpointing=on,off")


@pytest.mark.parametrize(
    ("asked", "cells"),
    [
        ((*GRID, "space.never=['lora.r=4 checkpointing=on']"), 3),
        ((*GRID, "search.n_trials=2"), 2),
        (GRID, 4),
    ],
)
def test_a_finished_study_has_ended_with_all_cells_that_it_asked_for(
    tmp_path: Path, asked: tuple[str, ...], cells: int
) -> None:
    folder = play(tmp_path, *asked).verdict.folder
    found = summary(opened(folder), running=False)
    assert (found.state, found.asked, found.settled) == ("ended", cells, cells)
    record = folder.read_study()
    assert isinstance(record, StudyRecord) and record.cells == cells


def test_a_record_without_the_number_tells_the_size_of_its_grid(tmp_path: Path) -> None:
    folder = play(tmp_path, *GRID).verdict.folder
    text = folder.study.read_text(encoding="utf-8").replace('"cells"', '"of another version"')
    record = StudyFolder(folder.path)
    plain = text.replace('  "of another version": 4,\n', "")
    record.study.write_text(plain, encoding="utf-8")
    found = record.read_study()
    assert found is not None and found.cells == 4
