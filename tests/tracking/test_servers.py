"""A study whose stores are real servers: PostgreSQL for Optuna, an MLflow server over PostgreSQL."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.commands import SHORT, sweeper, trials
from tests.support.servers import PASSWORD, PostgreSQL, free_port, mlflow_server, needs_postgresql, postgresql

pytestmark = [needs_postgresql, pytest.mark.slow]


@dataclass
class Swept:
    """A small study that was run into both servers."""

    folder: Path
    database: PostgreSQL
    tracking: str
    done: subprocess.CompletedProcess[str]

    @property
    def stores(self) -> tuple[str, str]:
        return f"study.storage={self.database.address('optuna')}", f"tracking.uri={self.tracking}"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    folder = tmp_path_factory.mktemp("servers")
    with postgresql(folder) as database:
        for name in ("optuna", "mlflow"):
            database.make_database(name)
        with mlflow_server(folder, database.address("mlflow"), free_port()) as tracking:
            study = folder / "study"
            study.mkdir()
            stores = f"study.storage={database.address('optuna')}", f"tracking.uri={tracking}"
            done = sweeper(study, "-m", "lora.r=8,16", *SHORT, *stores)
            yield Swept(study, database, tracking, done)


def test_trials_are_recorded_on_both_servers(swept: Swept) -> None:
    assert swept.done.returncode == 0, swept.done.stderr
    losses = [record.result.measurements.eval_loss for record in trials(swept.folder) if record.result]
    assert swept.database.ask("optuna", "select state from trials") == [("COMPLETE",), ("COMPLETE",)]
    client = MlflowClient(swept.tracking)
    (experiment,) = client.search_experiments(filter_string="name != 'Default'")
    runs = client.search_runs([experiment.experiment_id])
    logged = sorted(run.data.metrics["eval_loss"] for run in runs if "sweeper.trial" in run.data.tags)
    assert logged == pytest.approx(sorted(loss for loss in losses if loss is not None))
    (parent,) = [run for run in runs if "sweeper.trial" not in run.data.tags]
    assert any(item.path == "report.html" for item in client.list_artifacts(parent.info.run_id))


def test_mlflows_own_lines_stay_out_of_the_output(swept: Swept) -> None:
    assert "View run" not in swept.done.stdout + swept.done.stderr


def test_the_password_stands_in_no_file_and_no_line(swept: Swept) -> None:
    assert PASSWORD not in swept.done.stdout + swept.done.stderr
    files = [path for path in swept.folder.rglob("*") if path.is_file()]
    assert files and not [path for path in files if PASSWORD.encode() in path.read_bytes()]


def test_nothing_is_measured_again(swept: Swept) -> None:
    again = sweeper(swept.folder, "-m", "lora.r=8,16", *SHORT, *swept.stores)
    assert again.returncode == 0 and "2 cells were measured before" in again.stdout
    assert len(trials(swept.folder)) == 2
