"""Records in MLflow: real SQLite stores and a real server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from sweeper.analysis.open import OpenStudy
from sweeper.contract.config import Config
from sweeper.contract.folder import ProductionFolder
from sweeper.contract.measurements import Measurements
from sweeper.contract.study_config import TrackingConfig
from sweeper.contract.trial import GIB, Outcome, TrialProgress, TrialResult, TrialSpec
from sweeper.production.tracking import end_run, log_run, show_run
from sweeper.study.folder import StudyFolder
from sweeper.study.masking import mask, mask_all
from sweeper.study.records import StudyRecord, TrialRecord
from sweeper.tracking import entries
from sweeper.tracking.address import ANSWER_TIMEOUT_S, check, default_uri, ui_command
from sweeper.tracking.tracker import Tracker
from tests.support.sources import ROOT

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STUDY = StudyRecord(
    name="lora.r",
    created_at=STARTED.isoformat(),
    command="python -m sweeper -m lora.r=8,16",
    overrides=("train.steps=3",),
    swept={"lora.r": ["8", "16"]},
    config=Config().to_dict(),
)


def write_trial(
    folder: StudyFolder,
    number: int,
    outcome: Outcome | None = Outcome.COMPLETED,
    steps: int = 3,
    generation: int = 1,
    **measured: Any,
) -> TrialRecord:
    """A trial folder as a trial process leaves it; without an outcome the trial still runs."""
    overrides = {"lora.r": str(8 * (number + 1)), "optim": "adamw"}
    config = Config().to_dict() | {"tracking": {"uri": "postgresql://me:hunter2@host/db"}}
    files = folder.trial(number)
    files.write_spec(TrialSpec("lora.r", number, f"key{number}", config, overrides, generation))
    lines = [TrialProgress("phase", 0.1, phase="train"), TrialProgress("eval", 0.2, loss=4.0)]
    lines += [
        TrialProgress("step", step, step, steps, loss=3 / step, tokens=100, step_time_s=0.5)
        for step in range(1, steps + 1)
    ]
    files.progress.write_text("".join(json.dumps(line.to_json()) + "\n" for line in lines))
    if outcome is not None:
        files.write_result(
            TrialResult(
                outcome,
                reason=None if outcome is Outcome.COMPLETED else "it did not fit",
                measurements=Measurements(**measured),
                environment={"torch": "2.13.0", "gpu": None},
                started_at=STARTED.isoformat(),
                ended_at=(STARTED + timedelta(seconds=9)).isoformat(),
            )
        )
    return folder.read_trial(number)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: migrating a new file takes more than a second."""
    root = tmp_path_factory.mktemp("empty")
    folder = StudyFolder(root / "studies" / "s")
    folder.write_study(STUDY)
    Tracker(default_uri(root / "studies"), "unused", folder, STUDY).sync()
    return root / "mlflow.db"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.chdir(tmp_path)
    folder = StudyFolder(Path("studies/lora.r"))
    folder.write_study(STUDY)
    return folder


@pytest.fixture
def uri(folder: StudyFolder, empty_database: Path) -> str:
    shutil.copy(empty_database, "mlflow.db")
    return absolute("mlflow.db")


@pytest.fixture
def tracker(folder: StudyFolder, uri: str) -> Tracker:
    return Tracker(uri, "lora.r", folder, STUDY)


def absolute(name: str) -> str:
    """MLflow keeps open what it once opened under a URI, so a relative one would outlive its test."""
    return f"sqlite:///{Path.cwd() / name}"


def runs(uri: str, experiment: str = "lora.r") -> list[Any]:
    """All runs of the experiment, oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time"]))


def child_runs(uri: str) -> dict[str, Any]:
    """Trial number -> run. Fails when a trial has two."""
    children = [run for run in runs(uri) if "sweeper.trial" in run.data.tags]
    by_number = {run.data.tags["sweeper.trial"]: run for run in children}
    assert len(by_number) == len(children)
    return by_number


def artifacts(uri: str, run: Any) -> dict[str, str]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    names = [file.path for file in client.list_artifacts(run.info.run_id)]
    return {name: Path(client.download_artifacts(run.info.run_id, name)).read_text() for name in names}


def test_a_study_is_one_parent_with_a_nested_run_per_trial(
    tracker: Tracker, folder: StudyFolder, uri: str
) -> None:
    trials = [write_trial(folder, number, tokens_per_s=100.0 + number) for number in range(2)]
    assert [tracker.log_trial(trial) for trial in trials] == [None, None]
    folder.ranking_json.write_text("{}")
    folder.ranking_markdown.write_text("| trial | tokens/s |\n")
    assert tracker.log_study(trials, "ended", best=trials[1]) is None

    (parent,) = [run for run in runs(uri) if "sweeper.trial" not in run.data.tags]
    assert (parent.info.run_name, parent.info.status) == ("lora.r", "FINISHED")
    assert parent.data.params == {"lora.r": "8,16", "train.steps": "3"}
    assert parent.data.tags["best"] == "lora.r=16 optim=adamw"
    assert parent.data.tags["trials"] == "2 completed"
    assert "tokens/s" in parent.data.tags["mlflow.note.content"]
    assert set(artifacts(uri, parent)) == {"study.json", "ranking.json", "ranking.md"}
    children = child_runs(uri)
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert children["0"].info.run_name == "lora.r=8 optim=adamw"
    assert children["1"].info.run_name == "lora.r=16 optim=adamw"


def test_a_trial_shows_params_metrics_curves_and_artifacts(
    tracker: Tracker, folder: StudyFolder, uri: str
) -> None:
    from mlflow import MlflowClient

    trial = write_trial(folder, 0, tokens_per_s=1234.5678, peak_memory_bytes=3 * GIB // 2, adapter_bytes=4096)
    assert tracker.log_trial(trial) is None

    run = child_runs(uri)["0"]
    assert run.data.params["lora.r"] == "8"
    assert run.data.params["optim"] == "adamw", "a swept value is shown as typed"
    assert run.data.params["checkpointing"] == "false"
    measured = {name: value for name, value in run.data.metrics.items() if "/" not in name}
    assert measured == {"tokens_per_s": 1234.5678, "peak_memory_gib": 1.5, "adapter_bytes": 4096}
    losses = MlflowClient(uri).get_metric_history(run.info.run_id, "curve/train_loss")
    assert [(point.step, point.value) for point in losses] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert run.data.metrics["curve/tokens_per_s"] == 200.0
    assert run.data.metrics["curve/eval_loss"] == 4.0
    assert run.data.tags["outcome"] == "completed"
    assert run.info.end_time - run.info.start_time == 9000
    files = artifacts(uri, run)
    assert set(files) == {"config.yaml", "environment.json", "result.json"}
    assert json.loads(files["environment.json"]) == {"gpu": None, "torch": "2.13.0"}
    assert "hunter2" not in "".join(files.values())


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_a_run_status(outcome: Outcome) -> None:
    assert entries.RUN_STATUS[outcome] in {"FINISHED", "FAILED", "KILLED"}


def test_a_failed_trial_shows_its_reason_and_the_end_of_stderr(
    tracker: Tracker, folder: StudyFolder, uri: str
) -> None:
    folder.trial(0).path.parent.mkdir()
    trial = write_trial(folder, 0, Outcome.OUT_OF_MEMORY)
    trial.folder.stderr.write_text("x" * 100_000 + "the end")
    assert tracker.log_trial(trial) is None

    run = child_runs(uri)["0"]
    assert run.info.status == "FAILED"
    assert (run.data.tags["outcome"], run.data.tags["reason"]) == ("out_of_memory", "it did not fit")
    assert "python -m trainers" in run.data.tags["mlflow.note.content"]
    tail = artifacts(uri, run)["stderr_tail.txt"]
    assert tail.endswith("the end") and len(tail) < 70_000


def test_running_and_cancelled_trials_have_no_run(tracker: Tracker, folder: StudyFolder, uri: str) -> None:
    write_trial(folder, 0, outcome=None)
    write_trial(folder, 1, Outcome.CANCELLED)
    assert tracker.sync() is None
    assert child_runs(uri) == {}


def test_the_same_again_logs_nothing_twice(tracker: Tracker, folder: StudyFolder, uri: str) -> None:
    trial = write_trial(folder, 0)
    assert not tracker.is_complete()
    tracker.log_trial(trial)
    tracker.log_study([trial], "ended")
    before = [run.to_dictionary() for run in runs(uri)]

    again = Tracker(uri, "lora.r", folder, STUDY)
    assert again.is_complete()
    assert (again.sync(), again.log_trial(trial)) == (None, None)
    assert [run.to_dictionary() for run in runs(uri)] == before


def test_what_was_logged_is_known_without_the_ledger(tracker: Tracker, folder: StudyFolder, uri: str) -> None:
    """A crash between logging a trial and noting it."""
    tracker.sync()
    noted = folder.tracking.read_text()
    tracker.log_trial(write_trial(folder, 0))
    folder.tracking.write_text(noted)

    assert Tracker(uri, "lora.r", folder, STUDY).sync() is None
    assert set(child_runs(uri)) == {"0"}


def test_a_run_that_was_cut_off_is_completed_in_place(
    tracker: Tracker, folder: StudyFolder, uri: str
) -> None:
    """A crash between creating a run and ending it leaves it RUNNING."""
    from mlflow import MlflowClient

    tracker.log_trial(write_trial(folder, 0, tokens_per_s=7.0))
    run_id = child_runs(uri)["0"].info.run_id
    MlflowClient(uri).update_run(run_id, status="RUNNING")

    assert Tracker(uri, "lora.r", folder, STUDY).sync() is None
    run = child_runs(uri)["0"]
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert len(MlflowClient(uri).get_metric_history(run_id, "curve/train_loss")) == 3


def test_a_store_that_was_deleted_is_filled_again(
    tracker: Tracker, folder: StudyFolder, uri: str, empty_database: Path
) -> None:
    trial = write_trial(folder, 0)
    tracker.log_trial(trial)
    tracker.log_study([trial], "ended")
    Path("mlflow.db").unlink()

    again = Tracker(absolute("other.db"), "lora.r", folder, STUDY)
    assert not Tracker(uri, "lora.r", folder, STUDY).is_complete()
    assert not again.is_complete(), "another store knows nothing"
    shutil.copy(empty_database, "other.db")
    assert again.sync() is None
    assert set(child_runs(absolute("other.db"))) == {"0"}


def test_a_study_folder_made_again_is_another_study(tracker: Tracker, folder: StudyFolder, uri: str) -> None:
    tracker.log_trial(write_trial(folder, 0))
    shutil.rmtree(folder.path)
    folder.write_study(STUDY)
    write_trial(folder, 0)
    assert Tracker(uri, "lora.r", folder, STUDY).sync() is None
    assert len(runs(uri)) == 4


def test_measuring_afresh_opens_a_second_parent(tracker: Tracker, folder: StudyFolder, uri: str) -> None:
    tracker.log_trial(write_trial(folder, 0))
    afresh = Tracker(uri, "lora.r", folder, replace(STUDY, generation=2))
    assert afresh.log_trial(write_trial(folder, 1, generation=2)) is None
    children = child_runs(uri)
    parents = {number: run.data.tags["mlflow.parentRunId"] for number, run in children.items()}
    assert parents["0"] != parents["1"]
    assert json.loads(folder.tracking.read_text())["parents"] == {"1": parents["0"], "2": parents["1"]}


def test_an_experiment_that_was_deleted_comes_back(tracker: Tracker, folder: StudyFolder, uri: str) -> None:
    from mlflow import MlflowClient

    tracker.log_trial(write_trial(folder, 0))
    client = MlflowClient(uri)
    client.delete_experiment(runs(uri)[0].info.experiment_id)
    assert Tracker(uri, "lora.r", folder, STUDY).log_trial(write_trial(folder, 1)) is None
    assert set(child_runs(uri)) == {"0", "1"}


def test_nothing_is_written_beside_the_studies_and_the_database(folder: StudyFolder, tmp_path: Path) -> None:
    """With a store that does not exist yet."""
    tracker = Tracker(absolute("mlflow.db"), "lora.r", folder, STUDY)
    trial = write_trial(folder, 0)
    assert tracker.log_trial(trial) is None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mlflow.db", "studies"]
    assert sorted(entry.name for entry in folder.path.iterdir()) == [
        "mlflow",
        "study.json",
        "tracking.json",
        "trials",
    ]


def test_the_first_use_of_a_store_prints_nothing(folder: StudyFolder) -> None:
    code = (
        "import sys; from pathlib import Path; from sweeper.study.folder import StudyFolder;"
        "from sweeper.tracking.tracker import Tracker; folder = StudyFolder(Path('studies/lora.r'));"
        "tracker = Tracker('sqlite:///mlflow.db', 'lora.r', folder, folder.read_study());"
        "assert 'mlflow' not in sys.modules; assert tracker.sync() is None"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_long_curve_fits_into_one_request_of_mlflow(folder: StudyFolder) -> None:
    trial = write_trial(folder, 0, steps=5000)
    lines = [replace(line, learning_rate=1e-3, grad_norm=1.0) for line in trial.progress]
    lines += [TrialProgress("eval", step, step, loss=1.0) for step in range(1000)]
    every_field = Measurements(**dict.fromkeys(Measurements.__dataclass_fields__, 1))
    assert trial.result is not None
    points = entries.trial_points(
        replace(trial, progress=lines, result=replace(trial.result, measurements=every_field))
    )
    assert len(points) <= 1000  # mlflow.utils.validation.MAX_METRICS_PER_BATCH
    steps = [point.step for point in points if point.name == "curve/train_loss"]
    assert (steps[0], steps[-1]) == (1, 5000)


def test_only_memory_is_shown_in_gib() -> None:
    shown = entries.shown_metrics(
        {
            "peak_memory_train_bytes": GIB,
            "device_memory_bytes": 2 * GIB,
            "optimizer_state_bytes": 123_456_789,
            "eval_loss": None,
            "step_time_s": float("nan"),
        }
    )
    assert shown == {
        "peak_memory_train_gib": 1.0,
        "device_memory_gib": 2.0,
        "optimizer_state_bytes": 123_456_789,
    }


def test_names_that_mlflow_refuses_are_changed(tracker: Tracker, folder: StudyFolder, uri: str) -> None:
    trial = write_trial(folder, 0)
    overrides = {"+train.x(y)": "1", "optim@z": "a" * 7000}
    assert tracker.log_trial(replace(trial, spec=replace(trial.spec, overrides=overrides))) is None
    params = child_runs(uri)["0"].data.params
    assert params["train.x_y_"] == "1"
    assert len(params["optim_z"]) == 6000


def test_the_page_opens_with_the_swept_values_and_the_objective(
    tracker: Tracker, folder: StudyFolder, uri: str
) -> None:
    from mlflow import MlflowClient

    assert tracker.url() is None
    tracker.sync()
    url = tracker.url()
    assert url is not None and url.startswith("http://127.0.0.1:5000/#/experiments/")
    key = url.partition("viewStateShareKey=")[2]
    experiment = MlflowClient(uri).get_experiment(runs(uri)[0].info.experiment_id)
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`tokens_per_s`", False)
    assert {"params.`lora.r`", "metrics.`peak_memory_gib`", "tags.`outcome`"} <= set(view["selectedColumns"])


def ordered(folder: StudyFolder, uri: str) -> tuple[OpenStudy, ProductionFolder]:
    """A study with a production run that was asked for."""
    study = OpenStudy(folder, STUDY, replace(Config(), tracking=TrackingConfig(uri=uri)))
    production = folder.production("key")
    if not production.spec.exists():
        config = Config().to_dict()
        production.write_spec(TrialSpec("lora.r", 0, "key", config, {"lora.r": "8"}, production=True))
    return study, production


def test_a_production_run_is_seen_while_it_trains_and_resumes_as_one(
    tracker: Tracker, folder: StudyFolder, uri: str
) -> None:
    def statuses() -> list[str]:
        return [run.info.status for run in runs(uri) if "sweeper.production" in run.data.tags]

    assert tracker.sync() is None
    study, production = ordered(folder, uri)
    spec = production.read_spec()
    assert show_run(study, production, spec) is None
    assert statuses() == ["RUNNING"]
    assert end_run(study, production) is None
    assert statuses() == ["KILLED"]
    assert show_run(study, production, spec) is None
    production.write_result(
        TrialResult(Outcome.COMPLETED, None, Measurements(eval_loss=2.0), ended_at=STARTED.isoformat())
    )
    record = TrialRecord(spec, production.read_result(), production)
    noted = json.loads(production.tracking.read_text())["run_id"]
    assert log_run(study, production, record) == log_run(study, production, record) == noted
    (run,) = [run for run in runs(uri) if "sweeper.production" in run.data.tags]
    assert (run.info.run_id, run.info.status, run.data.metrics["eval_loss"]) == (noted, "FINISHED", 2.0)
    (parent,) = [run for run in runs(uri) if "sweeper.study_id" in run.data.tags]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_a_store_that_is_down_costs_a_production_run_a_line(folder: StudyFolder) -> None:
    study, production = ordered(folder, f"http://me:secret@127.0.0.1:{closed_port()}")
    line = show_run(study, production, production.read_spec())
    assert line is not None and "refused" in line and "secret" not in line and "\n" not in line
    assert end_run(study, production) is None, "there is no run to end"


def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def mlflow_server(port: int, root: Path) -> Iterator[None]:
    """A real server, which is killed at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db"]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=root, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while check(f"http://127.0.0.1:{port}") is not None:
            assert time.monotonic() < deadline and process.poll() is None, (root / "log").read_text()
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_server_that_comes_and_goes_gets_everything_once_and_stops_nothing(
    folder: StudyFolder, tmp_path: Path
) -> None:
    port = closed_port()
    uri = f"http://me:secret@127.0.0.1:{port}"
    tracker = Tracker(uri, "lora.r", folder, STUDY, retry_after_s=1000)
    problem = tracker.log_trial(write_trial(folder, 0))
    assert problem is not None and "refused" in problem and "the same command logs what is missing" in problem
    assert "secret" not in problem and "\n" not in problem
    assert tracker.log_trial(write_trial(folder, 1)) is None, "it is not asked again at once"

    root = tmp_path / "server"
    root.mkdir()
    with mlflow_server(port, root):
        assert tracker.sync() is None
        assert tracker.log_trial(write_trial(folder, 2)) is None
        assert set(child_runs(uri)) == {"0", "1", "2"}
        assert "config.yaml" in artifacts(uri, child_runs(uri)["2"])

    assert tracker.log_trial(write_trial(folder, 3)) is not None, "the server was killed"
    assert tracker.sync() is not None
    assert not tracker.is_complete()
    assert not folder.mlflow_artifacts.exists(), "a server decides itself where artifacts lie"
    assert "secret" not in folder.tracking.read_text()


def test_a_server_that_never_answers_costs_one_line(folder: StudyFolder) -> None:
    tracker = Tracker(f"http://127.0.0.1:{closed_port()}", "lora.r", folder, STUDY)
    trial = write_trial(folder, 0)
    problems = [tracker.log_trial(trial), tracker.log_trial(trial), tracker.log_study([trial], "ended")]
    assert [problem is not None for problem in problems] == [True, False, False]


def test_the_preflight_finds_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, whatever its name says" * 50)
    (tmp_path / "file").write_text("")
    silent = socket.create_server(("127.0.0.1", 0))  # accepts and never answers
    with silent:
        began = time.monotonic()
        wrong = {
            f"sqlite:///{tmp_path}/text.db": "not a database",
            f"sqlite:///{tmp_path}/file/mlflow.db": "must be writable",
            f"http://127.0.0.1:{closed_port()}": "refused",
            f"http://127.0.0.1:{silent.getsockname()[1]}": "timed out",
            "postgresql+pg8000://me:secret@127.0.0.1/db": "pg8000 is not installed",
            "somewhere/mlruns": "use sqlite:///mlflow.db",
        }
        for uri, words in wrong.items():
            problem = check(uri)
            assert problem is not None and words in problem, (uri, problem)
            assert "secret" not in problem
        assert time.monotonic() - began < 4 * ANSWER_TIMEOUT_S


class Refusing(SQLiteDialect_pysqlite):
    """A driver of a PostgreSQL server that answers and lets nobody in."""

    driver = "refusing"

    @classmethod
    def import_dbapi(cls) -> Any:
        return sqlite3

    def create_connect_args(self, url: Any) -> Any:
        return ["/nonexistent/folder/file.db"], {}


def test_the_preflight_logs_in_to_a_database() -> None:
    registry.register("postgresql.refusing", __name__, "Refusing")
    sys.modules.setdefault(__name__, sys.modules[Refusing.__module__])
    with socket.create_server(("127.0.0.1", 0)) as server:
        problem = check(f"postgresql+refusing://me:secret@127.0.0.1:{server.getsockname()[1]}/db")
    assert problem is not None and "unable to open database file" in problem and "secret" not in problem
    assert "correct `tracking.uri`" in problem and "\n" not in problem


def test_the_preflight_accepts_a_store_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert check(default_uri(tmp_path / "studies")) is None
    assert list(tmp_path.iterdir()) == []


def test_the_command_that_shows_the_study() -> None:
    assert ui_command(default_uri(Path("studies"))) == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    assert ui_command("http://host:5000") is None


def test_passwords_in_urls_are_masked() -> None:
    assert mask("a postgresql+x://me:p@ss@h:1/d b") == "a postgresql+x://me:***@h:1/d b"
    assert mask("mysql://h/d?user=me&password=x&y=1") == "mysql://h/d?user=me&password=***&y=1"
    assert mask("http://127.0.0.1:5000/#/runs") == "http://127.0.0.1:5000/#/runs"
    assert mask_all({"a": ["s://u:p@h"], "n": 1}) == {"a": ["s://u:***@h"], "n": 1}
