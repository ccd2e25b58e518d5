"""Only trials with the same model and data, device, threads and versions are held against each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.asked import OTHER_IDENTITY, select_asked
from sweeper.analysis.noise import interval
from sweeper.analysis.open import opened
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.stamps import digest
from sweeper.study.folder import StudyFolder
from tests.support.synthetic import ENVIRONMENT, write_study, write_trial

NOW: dict[str, Any] = {
    "model": "m1",
    "data": "d1",
    "device": "cpu A",
    "threads": "2",
    "versions": {"torch": "2.13.0", "peft": "0.21.2"},
}


def study_of(path: Path, *identities: dict[str, Any]) -> StudyFolder:
    """A study that asks for `NOW`, with a trial of one cell per identity; an empty one is unrecorded."""
    study = write_study(path, {"lora.r": ["8", "16"]})
    record = study.read_study()
    assert record is not None
    study.write_study(dataclasses.replace(record, identities=[NOW]))
    for number, identity in enumerate(identities):
        write_trial(study, number, {"lora.r": "8"})
        change(study, number, identity=identity, key=digest(identity))
    return study


def change(study: StudyFolder, number: int, **fields: Any) -> None:
    path = study.trial(number).spec
    write_json(path, dict(read_json(path)) | fields)


def left_out(study: StudyFolder) -> dict[int, str]:
    record = study.read_study()
    assert record is not None
    return {item.record.number: item.why for item in select_asked(record, study.read_trials()).left_out}


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"data": "d2"}, "other data"),
        ({"model": "m2"}, "another base model"),
        ({"device": "cpu B"}, "cpu B, not cpu A"),
        ({"threads": "4"}, "threads 4, not 2"),
        ({"versions": {"torch": "2.8.0", "peft": "0.21.2"}}, "torch 2.8.0, not 2.13.0"),
        ({"data": "d2", "threads": "4"}, "other data, threads 4, not 2"),
    ],
)
def test_what_differs_from_the_study_is_left_out_with_its_reason(
    tmp_path: Path, other: dict[str, Any], why: str
) -> None:
    study = study_of(tmp_path / "s", NOW | other, NOW)
    assert left_out(study) == {0: why}
    assert f"Left out: 1 trial ({why})" in (opened(study).choice.ranking.left_out_sentence() or "")


def test_cells_that_rest_on_different_models_are_all_asked_for(tmp_path: Path) -> None:
    study = study_of(tmp_path / "s", NOW)
    record = study.read_study()
    assert record is not None
    study.write_study(dataclasses.replace(record, identities=[NOW, NOW | {"model": "m2"}]))
    write_trial(study, 1, {"lora.r": "16"})
    change(study, 1, identity=NOW | {"model": "m2"})
    assert left_out(study) == {}


def test_trials_that_recorded_no_identity_are_told_apart_by_what_they_have(tmp_path: Path) -> None:
    assert left_out(study_of(tmp_path / "a", {}, NOW)) == {0: "A GPU, not cpu A"}
    study = study_of(tmp_path / "b", {}, NOW)
    result = study.trial(0).read_result()
    assert result is not None
    same = {"device": "A", "cpu": "A", "cuda": None, "libraries": ENVIRONMENT["libraries"]}
    study.trial(0).write_result(dataclasses.replace(result, environment=same))
    assert left_out(study) == {0: OTHER_IDENTITY}, "the key of the same configuration is another"
    change(study, 0, key=digest(NOW))
    assert left_out(study) == {}


def test_repeats_belong_to_the_identity_that_they_repeat(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"lora.r": ["8"]})
    for number, (base, repeat) in enumerate([("old", 0), ("old", 1), ("new", 0), ("new", 1)]):
        write_trial(study, number, {"lora.r": "8"}, tokens_per_s=100.0 * (number + 1))
        change(study, number, repeat=repeat, key=digest([base, repeat]) if repeat else base)
    assert left_out(study) == {0: OTHER_IDENTITY, 1: OTHER_IDENTITY}
    (cell,) = opened(study).choice.cells
    assert [trial.number for trial in cell.trials] == [2, 3] and cell.record.metric("tokens_per_s") == 350
    found = interval(cell, "tokens_per_s")
    assert found is not None and found.meaning().endswith("of the mean of 2 trials")


def test_trials_of_other_options_are_counted_too(tmp_path: Path) -> None:
    study = study_of(tmp_path / "s", NOW)
    config = dict(read_json(study.trial(0).spec))["config"]
    write_trial(study, 1, {"lora.r": "8"})
    change(study, 1, config=config | {"train": config["train"] | {"steps": 99}}, identity=NOW)
    write_trial(study, 2, {"lora.r": "16"})
    change(study, 2, generation=0)
    assert left_out(study) == {1: "another train.steps", 2: "an earlier study.fresh=true"}
