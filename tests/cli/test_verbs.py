"""The verbs that read a study, on one that was really swept: every one tells the same numbers."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.main import main
from sweeper.contract.trial import GIB, Outcome, TrialResult, TrialSpec
from sweeper.production.run import NothingToProduceError, take_order
from sweeper.study.folder import StudyFolder
from sweeper.tracking.entries import trial_points
from tests.support.commands import SHORT, processes_about, send, start, study, sweeper, trials
from tests.support.stores import with_store
from tests.support.synthetic import configured, methods_study, write_study, write_trial

GRID = ("-m", "lora.r=8,16", "checkpointing=off,on", *SHORT)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = with_store(tmp_path_factory.mktemp("verbs"))
    done = sweeper(folder, *GRID)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def here(swept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(swept)
    return swept


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What a verb prints, run in this process."""
    capsys.readouterr()
    assert main(list(arguments)) == code
    return capsys.readouterr().out


def test_every_number_of_a_trial_is_the_same_everywhere(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    told(capsys, "export", "--format=parquet", "--output=out/trials.parquet")
    exported = {
        "json": json.loads(told(capsys, "export", "--format=json")),
        "csv": list(csv.DictReader(io.StringIO(told(capsys, "export", "--format=csv")))),
        "parquet": pq.read_table("out/trials.parquet").to_pylist(),
        "report": _embedded(study(here).report_html.read_text(encoding="utf-8")),
    }
    best = json.loads(told(capsys, "best", "--json"))
    in_mlflow = _mlflow_metrics(here)
    for record in trials(here):
        assert record.result is not None
        measurements = record.result.to_json()["measurements"]
        known = {name: value for name, value in measurements.items() if value is not None}
        assert known["tokens_per_s"] > 0
        for kind, rows in exported.items():
            row = next(row for row in rows if int(row["trial"]) == record.number)
            assert {name: type(value)(row[name]) for name, value in known.items()} == known, kind
        for name, value in known.items():
            shown = in_mlflow[record.number]
            in_gib = name.removesuffix("_bytes") + "_gib"
            expected, key = (value / GIB, in_gib) if in_gib in shown else (value, name)
            assert shown[key] == float(f"{expected:.6g}") or shown[key] == expected, name
        if record.number == best["best"]["trial"]:
            assert best["best"]["measurements"] == measurements
    ranks = {row["trial"]: row["rank"] for row in best["ranking"]}
    assert {row["trial"]: row["rank"] for row in exported["json"]} == ranks
    ranking = json.loads(study(here).ranking_json.read_text())
    assert {row["number"]: row["rank"] for row in ranking["trials"]} == ranks


def _embedded(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="records">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    rows: list[dict[str, Any]] = json.loads(found[1])["rows"]
    return rows


def _mlflow_metrics(folder: Path) -> dict[int, dict[str, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [item for item in client.search_experiments() if item.name == study(folder).path.name]
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "sweeper.trial" in run.data.tags]
    return {int(run.data.tags["sweeper.trial"]): run.data.metrics for run in children}


def test_a_sweep_leaves_its_report_in_the_folder_and_in_mlflow(swept: Path) -> None:
    from mlflow import MlflowClient

    assert " ended " in study(swept).report_markdown.read_text(encoding="utf-8").splitlines()[2]
    client = MlflowClient(tracking_uri=f"sqlite:///{swept}/mlflow.db")
    (experiment,) = [item for item in client.search_experiments() if item.name == study(swept).path.name]
    (parent,) = client.search_runs([experiment.experiment_id], "tags.best != ''")
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "report.md", "ranking.md"} <= names


def test_best_answers_another_constraint_without_running_anything(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in (here / "studies").rglob("*"))
    output = told(
        capsys, "best", "constraint.peak_memory_gib=0.001", "constraint.eval_loss_within=null", code=1
    )
    assert "Best: none" in output
    found = re.search(r"Relax constraint\.peak_memory_gib from 0\.001 to (\S+):", output)
    assert found is not None
    relaxed = ("best", f"constraint.peak_memory_gib={found[1]}", "constraint.eval_loss_within=null")
    assert "Best: trial" in told(capsys, *relaxed)
    other = told(capsys, "best", "objective.maximize=null", "objective.minimize=peak_memory_bytes")
    assert "lowest peak_memory_bytes" in other
    assert sorted(path for path in (here / "studies").rglob("*")) == before


def test_best_says_what_each_switch_did(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = told(capsys, "best")
    assert "Runner-up in one switch" in output
    assert re.search(r"checkpointing off → on: .* tokens/s, .* MiB, .* eval loss \(2 pairs\)", output)
    assert re.search(r"lora\.r 8 → 16: .*\(2 pairs\)", output)


def test_mistakes_in_the_arguments_are_told_together(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best", "lora.r=4", "constraint.peak_memry_gib=1", "--jsn"]) == 2
    errors = capsys.readouterr().err
    for words in ("3 mistakes", "lora.r", "constraint.peak_memory_gib", "--jsn"):
        assert words in errors
    assert main(["best", "study.name=nonesuch"]) == 2
    assert "study.name must name a study" in capsys.readouterr().err


def test_without_a_study_the_verbs_say_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for verb in ("best", "report", "export", "ui"):
        assert main([verb]) == 1
        assert "run `python -m sweeper -m …` first" in capsys.readouterr().err
    assert "No study lies in studies" in told(capsys, "studies")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Studies of every kind, in the current folder."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "studies"
    methods_study(root / "methods")
    write_study(root / "nothing", {"lora.r": ["8", "16"]})
    write_trial(write_study(root / "running", {"lora.r": ["8"]}), 0, {"lora.r": "8"}, outcome=None)
    broken = root / "broken"
    broken.mkdir()
    (broken / "study.json").write_text("{", encoding="utf-8")
    return root


def test_studies_lists_every_study_whatever_its_state(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StudyFolder(many / "running").locked():
        rows = {row["name"]: row for row in json.loads(told(capsys, "studies", "--json"))}
        table = told(capsys, "studies")
    assert {name: row["state"] for name, row in rows.items()} == {
        "broken": "unreadable", "methods": "incomplete", "nothing": "empty", "running": "running",
    }  # fmt: skip
    assert rows["methods"]["outcomes"]["out_of_memory"] == 1 and rows["methods"]["best"] is not None
    assert "trial 17" in table and "24/24" in table  # as fast as trial 14 in less memory


@pytest.mark.parametrize("name", ["methods", "nothing", "running"])
def test_every_reading_verb_copes_with_every_study(
    many: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    has_best = name == "methods"
    told(capsys, "best", f"study.name={name}", code=0 if has_best else 1)
    rows = json.loads(told(capsys, "export", "--format=json", f"study.name={name}"))
    assert len(rows) == len(StudyFolder(many / name).read_trials())
    for kind in ("csv", "parquet"):
        told(capsys, "export", f"--format={kind}", "--output=out", f"study.name={name}")


def test_sync_logs_what_the_store_missed(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("broken", "running", "nothing"):
        (many / folder / "study.json").unlink()
    assert "methods: 24 trials are in sqlite:///mlflow.db, 24 of them new" in told(capsys, "sync")
    assert "24 trials are in sqlite:///mlflow.db, 0 of them new" in told(capsys, "sync")
    write_trial(StudyFolder(many / "methods"), 24, {"precision": "bf16", "optim": "adafactor"})
    assert "25 trials are in sqlite:///mlflow.db, 1 of them new" in told(capsys, "sync", "study.name=methods")
    assert "Study methods" in told(capsys, "report", "study.name=methods")


@pytest.fixture
def masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """A study with two trials, in the current folder, whose store nobody asks."""
    monkeypatch.chdir(tmp_path)
    folder = write_study(
        tmp_path / "studies" / "s", {"lora.r": ["8", "16"]}, tracking={"uri": "postgresql://me:***@db/mlflow"}
    )
    for number, rank in enumerate(("8", "16")):
        write_trial(folder, number, {"lora.r": rank}, energy_j=50.0)
    return folder


def test_a_broken_result_is_a_crash_that_names_its_file(
    masked: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("[]", '{"outcome": "splendid"}', "{"):
        masked.trial(1).result.write_text(text)
        result = masked.trial(1).read_result()
        assert result is not None and result.outcome is Outcome.CRASHED
    masked.ranking_json.write_text("{")
    assert "Best: trial 0" in told(capsys, "best")
    row = json.loads(told(capsys, "export", "--format=json"))[1]
    assert row["outcome"] == "crashed" and "trials/0001/result.json cannot be read" in row["reason"]
    told(capsys, "report")
    assert "0001/result.json cannot be read" in masked.report_markdown.read_text(encoding="utf-8")
    assert json.loads(told(capsys, "studies", "--json"))[0]["outcomes"] == {"completed": 1, "crashed": 1}


@pytest.mark.parametrize(("name", "text"), [("study.json", "{"), ("trials/0001/spec.json", "[]")])
def test_a_broken_record_is_named_and_stops_no_other_study(
    masked: StudyFolder, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    (masked.path / name).write_text(text)
    write_study(masked.path.parent / "other", {"lora.r": ["8"]}, tracking={"uri": "mysql://me:***@db/m"})
    assert [row["state"] for row in json.loads(told(capsys, "studies", "--json"))] == ["empty", "unreadable"]
    for verb in ("best", "report", "export"):
        assert main([verb, "study.name=s"]) == 1
        assert f"{masked.path.name}/{name} cannot be read" in capsys.readouterr().err, verb
    synced = told(capsys, "sync", code=1)
    assert "other: its store's password" in synced
    assert ("s: a record must be whole" in synced) == (name == "study.json")


def test_derived_figures_are_exported_logged_and_limited(
    masked: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.loads(told(capsys, "export", "--format=json"))[0]
    assert row["energy_per_token_j"] == 0.005 and row["cost_per_million_tokens"] is None
    logged = {point.name: point.value for point in trial_points(masked.read_trial(0))}
    assert logged["energy_per_token_j"] == 0.005 and "cost_per_million_tokens" not in logged
    output = told(capsys, "best", "constraint.at_most=[energy_per_token_j:0.001]", code=1)
    assert "Relax constraint.at_most[energy_per_token_j] from 0.001 to 0.005:" in output


def test_sync_leaves_a_running_study_to_its_driver(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StudyFolder(many / "methods").locked():
        assert "methods: is running" in told(capsys, "sync", "study.name=methods")


def test_a_password_that_was_not_recorded_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = {"uri": "postgresql://me:***@db/mlflow"}
    write_trial(write_study(tmp_path / "studies" / "s", {"lora.r": ["8"]}, tracking=uri), 0, {"lora.r": "8"})
    assert "give tracking.uri=…" in told(capsys, "sync", code=1)
    assert main(["ui"]) == 1
    assert "give tracking.uri=…" in capsys.readouterr().err
    with pytest.raises(NothingToProduceError, match=r"give tracking.uri=… with study.name=s"):
        take_order([])


def test_the_ui_refuses_the_network_unless_allowed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--host=0.0.0.0"]) == 2
    assert "--allow-remote" in capsys.readouterr().err


def test_the_ui_says_when_its_port_is_taken(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["ui", f"--port={taken.getsockname()[1]}"]) == 1
    assert "give --port=" in capsys.readouterr().err


@pytest.mark.slow
def test_the_ui_serves_the_study_until_it_is_interrupted(swept: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start(swept, "ui", f"--port={port}")
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert f"http://127.0.0.1:{port}/#/experiments/" in line and "viewStateShareKey=sweeper-" in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            assert answer.status == 200
        assert len(processes_about(swept)) > 1
    finally:
        send(server, signal.SIGINT)
        output, _ = server.communicate(timeout=30)
    assert server.returncode == 0, output
    assert not processes_about(swept)


def test_a_cancelled_trial_makes_a_study_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    folder = write_study(tmp_path / "studies" / "s", {"lora.r": ["8"]})
    config = configured({"train.steps": "20", "lora.r": "8"})
    folder.trial(0).write_spec(TrialSpec("s", 0, "key0", config, {"lora.r": "8"}))
    folder.trial(0).write_result(TrialResult(Outcome.CANCELLED, "the driver was interrupted"))
    (row,) = json.loads(told(capsys, "studies", "--json"))
    assert (row["state"], row["outcomes"]) == ("incomplete", {"cancelled": 1})
    assert len(json.loads(told(capsys, "export", "--format=json"))) == 1
