"""A real study under two objectives, on a data file that is changed afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.tracking.address import default_uri
from tests.support.commands import SHORT, study, sweeper
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
