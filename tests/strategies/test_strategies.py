"""Whole studies from the command line to the report, with answers instead of trials."""

from __future__ import annotations

import dataclasses
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from sweeper.analysis.open import opened
from sweeper.analysis.studies import summaries
from sweeper.cli.main import main
from sweeper.contract.folder import TrialFolder
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.trial import Outcome, TrialSpec
from sweeper.launchers.recorded import RecordedJob, RecordedLauncher, Recording
from sweeper.study.records import TrialRecord
from tests.support.recorded import Interrupted, answer, interrupted, lines_of, play
from tests.support.synthetic import write_study, write_trial

FINALISTS = ("batch.micro=1,2,4", "repeats.finalists=2", "repeats.runs=3")


def outcome(record: TrialRecord) -> Outcome | None:
    return record.result.outcome if record.result else None


def test_a_grid_goes_on_where_it_was_cut_off_and_skips_what_cannot_fit(tmp_path: Path) -> None:
    grid = ("lora.r=8,16", "batch.micro=1,16")
    assert interrupted(tmp_path, 1, *grid).verdict.interrupted
    played = play(tmp_path, *grid)
    labels = [label for _, label, _ in played.settled()]
    assert labels == [f"batch.micro={micro} lora.r={rank}" for rank in (8, 16) for micro in (1, 16)]
    (skipped,) = (record for record in played.records if outcome(record) is Outcome.PREDICTED_OOM)
    assert skipped.label == "batch.micro=16 lora.r=16" and skipped.result is not None
    assert "ran out" in (skipped.result.reason or "")


def test_a_budget_ends_a_study_that_goes_on_even_when_its_ledger_is_lost(tmp_path: Path) -> None:
    asked = ("lora.r=8,16,32,64", "search.n_trials=4")
    first = play(tmp_path, *asked, "budget.trials=3")
    assert first.verdict.ran == 3 and "1 cells are left" in (first.verdict.left or "")
    (tmp_path / "optuna.db").unlink()
    second = play(tmp_path, *asked, "budget.trials=9")
    assert second.verdict.ran == 1 and second.verdict.left is None
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/optuna.db")
    assert study.n_trials == 4
    again = play(tmp_path, *asked)
    assert again.launcher.started == 0 and again.verdict.ran == 0


@pytest.mark.parametrize("more", [(), ("search.n_trials=9",)], ids=["grid", "search"])
def test_a_finished_study_with_cells_left_out_has_ended_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    never = "space.never=['lora.r=16 batch.micro=2']"
    assert interrupted(tmp_path, 2, "lora.r=8,16", "batch.micro=1,2", never, *more).verdict.interrupted
    monkeypatch.chdir(tmp_path)
    (cut_off,) = summaries(Path("studies"))
    assert (cut_off.state, cut_off.progress()) == ("incomplete", "2 of 3 cells")
    folder = play(tmp_path, "lora.r=8,16", "batch.micro=1,2", never, *more).verdict.folder
    (found,) = summaries(Path("studies"))
    assert (found.state, found.progress()) == ("ended", "3 of 3 cells")
    assert "3 of 3 cells" in folder.report_markdown.read_text()
    assert main(["sync"]) == 0
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_study_recorded_without_its_number_of_cells_is_as_large_as_its_grid(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"lora.r": ["8", "16"], "batch.micro": ["1", "2"]})
    record = read_json(study.study)
    del record["cells"]
    write_json(study.study, record)
    (found,) = summaries(tmp_path)
    assert found.asked == 4


def test_the_papers_decisions_and_effects_stand_in_the_report(tmp_path: Path) -> None:
    asked = ("strategy=paper", "batch.micro=2,4", "batch.effective=16,8,32", "precision=fp32,bf16")
    interrupted(tmp_path, 3, *asked)
    played = play(tmp_path, *asked, "budget.trials=5")
    folder = played.verdict.folder
    decisions = json.loads(folder.decisions.read_text())
    assert decisions[-1]["stage"] == "summary" and "(3 batch again)" in (played.verdict.left or "")
    report = folder.report_markdown.read_text()
    assert "How the search went" in report and decisions[0]["text"] in report
    assert "| precision=bf16 |" in report and "speed of fp32" in report
    assert "How the search went" in folder.report_html.read_text()


def test_a_finished_trial_keeps_the_price_at_which_it_ran(tmp_path: Path) -> None:
    asked = ("batch.micro=1,2", "objective.minimize=cost_per_million_tokens", "study.name=s")
    play(tmp_path, *asked, "hardware.price_per_hour=2", "budget.trials=1")
    played = play(tmp_path, *asked, "hardware.price_per_hour=36")
    costs = [record.metric("cost_per_million_tokens") for record in played.records]
    speeds = [record.metric("tokens_per_s") or 0 for record in played.records]
    assert costs == [pytest.approx(price / 3600 / v * 1e6) for price, v in zip((2, 36), speeds, strict=True)]
    best = played.verdict.ranking.best
    assert best is not None and best.number == 0


def test_a_trial_without_a_price_costs_what_the_study_says(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"lora.r": ["8"]}, hardware={"price_per_hour": 36})
    write_trial(folder, 0, {"lora.r": "8"}, tokens_per_s=1000.0)
    assert folder.read_trials()[0].metric("cost_per_million_tokens") == pytest.approx(10)


def losing(spec: TrialSpec) -> Recording:
    """Losses fall, those of `lora.r=64` from a higher level."""
    start = 6.0 if spec.config["lora"]["r"] == 64 else 5.0
    recording = answer(spec)
    lines = lines_of(1000, {step: start - step / 4 for step in (0, 2, 4, 6)})
    return dataclasses.replace(recording, progress=tuple(lines))


def test_a_resumed_study_prunes_by_what_it_saw_before(tmp_path: Path) -> None:
    asked = ("lora.r=4,8,16,32,64", "pruner=median", "evaluate.every_steps=2")
    play(tmp_path, *asked, launcher=Interrupted(losing, trials=4))
    played = play(tmp_path, *asked, launcher=RecordedLauncher(losing))
    assert played.records[-1].label == "lora.r=64" and outcome(played.records[-1]) is Outcome.PRUNED
    pruned = played.records[-1].result
    assert pruned is not None and "behind" in (pruned.reason or "") and pruned.measurements.tokens_per_s


@dataclasses.dataclass
class Picky(RecordedLauncher):
    """Finds something wrong with one combination of values, each of which is sound with others."""

    def _prepare(self, folder: TrialFolder) -> RecordedJob:
        job = super()._prepare(folder)
        asked, found = read_json(folder.path / "prepare.json"), read_json(folder.path / "prepared.json")
        for config, cell in zip(asked["configs"], found["cells"], strict=True):
            if config["precision"] == "bf16" and config["optim"] == "adafactor":
                problem = {"rule": "it must load", "key": "optim", "value": "adafactor", "remedy": "another"}
                cell["problems"] = [problem]
        write_json(folder.path / "prepared.json", found)
        return job


def test_a_drawn_cell_whose_model_or_data_are_unsound_ends_no_study(tmp_path: Path) -> None:
    asked = ("precision=fp32,bf16", "optim=adamw,adafactor", "search.n_trials=4")
    played = play(tmp_path, *asked, launcher=Picky(answer))
    (refused,) = (record for record in played.records if outcome(record) is Outcome.INVALID)
    assert refused.label == "optim=adafactor precision=bf16" and len(played.settled()) == 4
    assert refused.result is not None and "it must load" in (refused.result.reason or "")


def lucky_once(spec: TrialSpec) -> Recording:
    """The first measurement of `batch.micro=2` is much faster than its repeats."""
    recording = answer(spec)
    speed = recording.result.measurements.tokens_per_s
    if speed is None or spec.repeat or spec.config["batch"]["micro"] != 2:
        return recording
    figures = dataclasses.replace(recording.result.measurements, tokens_per_s=2 * speed)
    return dataclasses.replace(recording, result=dataclasses.replace(recording.result, measurements=figures))


def test_the_verdict_of_repeated_cells_is_the_same_everywhere(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path}/mlflow.db"  # MLflow keeps open what it once opened under a relative one
    asked = (*FINALISTS, f"tracking.uri={store}")
    played = play(tmp_path, *asked, launcher=RecordedLauncher(lucky_once))
    folder, ranking = played.verdict.folder, played.verdict.ranking
    judged = opened(folder).choice.ranking
    assert [trial.record.number for trial in ranking.trials] == [t.record.number for t in judged.trials]
    assert len(ranking.trials) == 3 < len(played.records) and ranking.best is not None
    written = json.loads(folder.ranking_json.read_text())
    assert written["best"] == ranking.best.number
    assert sorted(len(row["trials"]) for row in written["trials"]) == [1, 3, 3]
    text = folder.ranking_markdown.read_text()
    assert f"Best: trial {ranking.best.number}, `{ranking.best.label}`" in text
    assert "within its noise" in text
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name(folder.path.name)
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.best != ''")
    assert parent.data.tags["best"] == ranking.best.label
    assert next(summaries(folder.path.parent)).state == "ended"


class Gateway(BaseHTTPRequestHandler):
    """Answers, and knows nothing: the preflight is content, MLflow is not."""

    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


def test_no_password_reaches_the_folder_of_a_study(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        played = play(
            tmp_path, "lora.r=8,16", f"tracking.uri=http://me:hunter2@127.0.0.1:{server.server_port}"
        )
        server.shutdown()
    spec = played.records[0].spec
    assert spec.config["tracking"]["uri"].startswith("http://me:***@127.0.0.1")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
