"""A real study under two objectives, on a data file that is changed afterwards."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from sweeper.study.folder import StudyFolder
from sweeper.tracking.address import default_uri
from tests.support.commands import SHORT, study, sweeper, trials
from tests.support.samples import write_gsm8k
from tests.support.stores import with_store

ASKED = (
    "-m", "lora.r=4,8", "data=jsonl", "data.path=train.jsonl", "data.prompt_field=question",
    "data.completion_field=answer", *SHORT, "objective.minimize=[peak_memory_bytes,eval_loss]",
)  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = with_store(tmp_path_factory.mktemp("judging"))
    write_gsm8k(folder / "train.jsonl", 40)
    done = sweeper(folder, *ASKED)
    assert done.returncode == 0, done.stderr + done.stdout
    (folder / "output.txt").write_text(done.stdout)
    return folder


def test_two_minimised_objectives_rank_by_the_first_and_mlflow_sorts_by_it(swept: Path) -> None:
    from mlflow import MlflowClient

    assert "Rule: lowest peak_memory_bytes among trials" in (swept / "output.txt").read_text()
    client = MlflowClient(default_uri(swept / "studies"))
    experiment = client.get_experiment_by_name(study(swept).path.name)
    assert experiment is not None
    (tag,) = [text for name, text in experiment.tags.items() if name.startswith("mlflow.sharedViewState.")]
    view = json.loads(tag)
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`peak_memory_gib`", True)
    assert {"metrics.`peak_memory_gib`", "metrics.`eval_loss`"} <= set(view["selectedColumns"])


@pytest.fixture(scope="module")
def changed(swept: Path) -> Path:
    """The same command after the data file was edited, and after it was put back."""
    earlier = (swept / "train.jsonl").read_text()
    write_gsm8k(swept / "train.jsonl", 48)
    edited = sweeper(swept, *ASKED)
    (swept / "best.txt").write_text(sweeper(swept, "best").stdout)
    (swept / "table.csv").write_text(sweeper(swept, "export", "--format=csv").stdout)
    (swept / "edited.txt").write_text(edited.stdout)
    shutil.copytree(study(swept).path, swept / "as edited")
    (swept / "train.jsonl").write_text(earlier)
    back = sweeper(swept, *ASKED)
    assert edited.returncode == back.returncode == 0, edited.stderr + back.stderr
    (swept / "back.txt").write_text(back.stdout)
    return swept


LEFT_OUT = "Left out: 2 trials (other data)"


def test_trials_on_other_data_are_no_repeats_of_a_cell(changed: Path) -> None:
    records = trials(changed)
    assert [record.spec.repeat for record in records] == [0, 0, 0, 0], "each cell on either data, once"
    said = (changed / "best.txt").read_text()
    assert LEFT_OUT in said and "mean of" not in said
    assert "Best: trial 2" in said or "Best: trial 3" in said
    assert LEFT_OUT in (changed / "edited.txt").read_text()
    edited = StudyFolder(changed / "as edited")
    verdict = json.loads(edited.ranking_json.read_text())
    assert {row["number"]: row["trials"] for row in verdict["trials"]} == {2: [2], 3: [3]}
    assert verdict["left_out"] == [{"number": 0, "why": "other data"}, {"number": 1, "why": "other data"}]
    for path in (edited.ranking_markdown, edited.report_markdown, edited.report_html):
        assert LEFT_OUT in path.read_text()
    rows = list(csv.DictReader((changed / "table.csv").read_text().splitlines()))
    assert [row["left_out"] for row in rows] == ["other data", "other data", "", ""]
    assert [bool(row["rank"] or row["violations"]) for row in rows] == [False, False, True, True]


def test_losses_on_earlier_data_are_no_reference_for_new_trials(changed: Path) -> None:
    import optuna

    edited = StudyFolder(changed / "as edited")
    known = optuna.load_study(
        study_name=study(changed).path.name, storage=f"sqlite:///{edited.optuna}"
    ).trials
    earlier, loss = (trials(changed)[number].metric("eval_loss") for number in (0, 2))
    assert earlier is not None and loss is not None and earlier < loss, "else nothing is shown"
    assert known[2].constraints["eval_loss_within"] == pytest.approx(loss - loss * 1.05), "its own, the first"


def test_the_trials_of_the_earlier_data_count_again_once_it_is_back(changed: Path) -> None:
    from mlflow import MlflowClient

    said = (changed / "back.txt").read_text()
    assert LEFT_OUT in said and "Found 2 trials measured before; ran 0" in said
    verdict = json.loads(study(changed).ranking_json.read_text())
    assert {row["number"] for row in verdict["trials"]} == {0, 1} and verdict["best"] in (0, 1)
    client = MlflowClient(default_uri(changed / "studies"))
    experiment = client.get_experiment_by_name(study(changed).path.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "sweeper.trial" not in run.data.tags]
    best = next(record for record in trials(changed) if record.number == verdict["best"])
    assert (parent.data.tags["left_out"], parent.data.tags["best"]) == (LEFT_OUT, best.label)
    assert LEFT_OUT in parent.data.tags["mlflow.note.content"]
