"""The main job, end to end: real processes, real SQLite, real MLflow."""

from __future__ import annotations

import json
import signal
from datetime import datetime
from pathlib import Path

import pytest

from sweeper.contract.trial import Outcome
from tests.support.commands import (
    GRID,
    SHORT,
    is_trial,
    new_sweeper,
    processes_about,
    send,
    start,
    study,
    sweeper,
    trials,
    wait_for,
)
from tests.support.stores import with_store


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the grid was swept once."""
    folder = tmp_path_factory.mktemp("swept")
    done = new_sweeper(folder, *GRID)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output.txt").write_text(done.stdout)
    return folder


def test_every_cell_is_measured_once(swept: Path) -> None:
    records = trials(swept)
    assert [record.number for record in records] == list(range(6))
    assert len({json.dumps(record.spec.overrides) for record in records}) == 6
    for record in records:
        assert record.result is not None and record.result.outcome is Outcome.COMPLETED
        for name in ("tokens_per_s", "peak_memory_bytes", "eval_loss", "optimizer_state_bytes"):
            assert (record.metric(name) or 0) > 0, name


def test_every_trial_does_equal_work(swept: Path) -> None:
    assert len({record.metric("tokens") for record in trials(swept)}) == 1


def test_data_is_tokenised_once_for_all_trials(swept: Path) -> None:
    (facts,) = (swept / "studies" / ".cache").glob("*/facts.json")
    started = [record.result.started_at for record in trials(swept) if record.result]
    first_s = min(datetime.fromisoformat(moment).timestamp() for moment in started if moment)
    files = [path for path in facts.parent.rglob("*") if path.is_file()]
    assert files and all(path.stat().st_mtime < first_s for path in files)


def test_output_names_the_best_cell_and_how_to_run_it_again(swept: Path) -> None:
    output = (swept / "output.txt").read_text()
    ranking = json.loads(study(swept).ranking_json.read_text())
    best = next(row for row in ranking["trials"] if row["rank"] == 1)
    label = " ".join(f"{key}={value}" for key, value in best["overrides"].items())
    assert f"Best: trial {best['number']}, {label}" in output
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in output
    assert f"python -m sweeper {' '.join(SHORT)} {label}" in output


def test_nothing_is_written_but_studies_and_the_mlflow_store(swept: Path) -> None:
    assert {path.name for path in swept.iterdir()} == {"studies", "mlflow.db", "output.txt"}


def test_mlflow_holds_a_parent_and_a_nested_run_per_trial(swept: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{swept}/mlflow.db")
    (experiment,) = [item for item in client.search_experiments() if item.name == study(swept).path.name]
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1 and len(children) == 6
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    by_cell = {(run.data.params["lora.r"], run.data.params["optim"]): run for run in children}
    for record in trials(swept):
        cell = record.spec.overrides
        metrics = by_cell[cell["lora.r"], cell["optim"]].data.metrics
        assert metrics["tokens_per_s"] == pytest.approx(record.metric("tokens_per_s"))
        peak = record.metric("peak_memory_bytes")
        assert peak is not None and metrics["peak_memory_gib"] == pytest.approx(peak / 2**30)


def test_optuna_knows_the_same_trials_by_the_same_numbers(swept: Path) -> None:
    import optuna

    folder = study(swept)
    known = optuna.load_study(study_name=folder.path.name, storage=f"sqlite:///{folder.optuna}").trials
    assert [trial.number for trial in known] == [record.number for record in trials(swept)]
    for trial, record in zip(known, trials(swept), strict=True):
        assert trial.params == record.spec.overrides
        assert trial.value == pytest.approx(record.metric("tokens_per_s"))


def test_the_same_command_again_runs_nothing(swept: Path) -> None:
    before = [(record.number, record.result) for record in trials(swept)]
    again = sweeper(swept, *GRID)
    assert again.returncode == 0, again.stderr
    assert "Found 6 trials measured before; ran 0." in again.stdout
    assert [(record.number, record.result) for record in trials(swept)] == before


def test_one_trial_runs_without_a_sweep_and_anew_when_asked(tmp_path: Path) -> None:
    for more in ([], ["study.fresh=true"]):
        done = sweeper(with_store(tmp_path), "lora.r=16", "optim=adafactor", *SHORT, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    assert [record.spec.generation for record in trials(tmp_path)] == [1, 2], "old trials are kept"
    for record in trials(tmp_path):
        assert record.result is not None and record.result.outcome is Outcome.COMPLETED
        assert record.spec.config["lora"]["r"] == 16 and record.spec.config["optim"] == "adafactor"


def test_a_study_goes_on_after_its_driver_was_killed(tmp_path: Path) -> None:
    driver = start(with_store(tmp_path), *GRID)
    folder = tmp_path / "studies"
    wait_for(lambda: len(list(folder.glob("*/trials/*/result.json"))) >= 2)
    send(driver, signal.SIGKILL)
    driver.communicate(timeout=60)
    wait_for(lambda: not processes_about(tmp_path), timeout_s=20)
    finished = {
        record.number: record.result
        for record in trials(tmp_path)
        if record.result and record.result.outcome is Outcome.COMPLETED
    }
    done = sweeper(tmp_path, *GRID)
    assert done.returncode == 0, done.stdout + done.stderr
    records = trials(tmp_path)
    completed = [r for r in records if r.result and r.result.outcome is Outcome.COMPLETED]
    assert len(completed) == 6 and len({json.dumps(r.spec.overrides) for r in completed}) == 6
    for number, result in finished.items():
        assert records[number].result == result
    assert len(records) <= 7


def test_interrupting_the_driver_ends_the_trial_and_keeps_the_study(tmp_path: Path) -> None:
    driver = start(with_store(tmp_path), *GRID)
    wait_for(lambda: list((tmp_path / "studies").glob("*/trials/*/progress.jsonl")))
    send(driver, signal.SIGINT)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert "The same command continues" in output
    assert not processes_about(tmp_path)
    last = trials(tmp_path)[-1]
    assert last.result is not None and last.result.outcome in (Outcome.CANCELLED, Outcome.COMPLETED)


def test_running_out_of_memory_is_an_outcome_among_others(tmp_path: Path) -> None:
    done = sweeper(
        with_store(tmp_path), "-m", "batch.micro=1,64", "batch.effective=64", "trial.memory_limit_gib=0.25",
        "train.steps=2", "trial.warmup_steps=1", "data.max_eval_examples=8", "evaluate.batch=1",
        "memory.skip=never",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {record.spec.overrides["batch.micro"]: record.result for record in trials(tmp_path)}
    small, large = outcomes["1"], outcomes["64"]
    assert small is not None and small.outcome is Outcome.COMPLETED
    assert large is not None and large.outcome is Outcome.OUT_OF_MEMORY, large
    assert large.measurements.eval_loss_before is not None


def test_a_trial_that_is_killed_or_too_slow_does_not_stop_the_study(tmp_path: Path) -> None:
    driver = start(with_store(tmp_path), "-m", "train.steps=4000,5000,3", "trial.timeout_s=5", *SHORT[1:])
    wait_for(lambda: list((tmp_path / "studies").glob("*/trials/0000/progress.jsonl")))
    for victim in filter(is_trial, processes_about(tmp_path)):
        victim.kill()
    output, _ = driver.communicate(timeout=200)
    killed, slow, quick = (record.result for record in trials(tmp_path))
    assert killed is not None and killed.outcome is Outcome.CRASHED, output
    assert "signal 9" in (killed.reason or "")
    assert slow is not None and slow.outcome is Outcome.TIMED_OUT, output
    assert slow.measurements.tokens_per_s is not None
    assert quick is not None and quick.outcome is Outcome.COMPLETED
    assert driver.returncode == 0, output
