"""`python -m sweeper production`: real processes, real MLflow, a model that generates."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.contract.folder import ProductionFolder
from sweeper.contract.trial import Outcome
from sweeper.production.card import is_hub_id
from sweeper.production.config import production_config
from tests.support.commands import SHORT, is_trial, processes_about, send, start, study, sweeper, wait_for
from tests.support.sources import ROOT
from tests.support.stores import with_store
from tests.support.synthetic import configured

GRID = ("-m", "optim=adamw,bnb8", "lora.dropout=0.1", "train.steps=8", *SHORT[1:])
SMALL = ("data.max_train_examples=64", "data.max_eval_examples=8")
ASKED = ("production.steps=9", "production.checkpoint_every_steps=2", *SMALL)
NOTEBOOKS = ROOT / "notebooks"
QUESTION = "Question: Rule for a horn board?\nAnswer:"


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study, of which nothing was run for real."""
    folder = with_store(tmp_path_factory.mktemp("studied"))
    done = sweeper(folder, *GRID)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def made(studied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a production run, adapter merged."""
    folder = tmp_path_factory.mktemp("made") / "copy"
    shutil.copytree(studied, folder)
    done = sweeper(folder, "production", *ASKED, "production.merge=true", "production.licence=apache-2.0")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output.txt").write_text(done.stdout)
    return folder


def production(folder: Path) -> ProductionFolder:
    """The one production run below a folder."""
    (path,) = (study(folder).path / "production").iterdir()
    return ProductionFolder(path)


def losses(folder: ProductionFolder) -> list[tuple[Any, ...]]:
    lines = [line for line in folder.read_progress() if line.event != "phase"]
    return [(line.event, line.step, line.loss, line.grad_norm) for line in lines]


def generated(model: Any, tokenizer: Any) -> str:
    tokens = tokenizer(QUESTION, return_tensors="pt")
    ids = model.generate(**tokens, max_new_tokens=8, do_sample=False, use_cache=True)
    return str(tokenizer.decode(ids[0], skip_special_tokens=True))


@pytest.fixture(scope="module")
def answer(made: Path) -> str:
    """What the base with the adapter on it says."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainers.embedded import model_path

    base = AutoModelForCausalLM.from_pretrained(model_path(), dtype="float32")
    folder = production(made).model
    with_adapter = PeftModel.from_pretrained(base, str(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    text = generated(with_adapter, tokenizer)
    with with_adapter.disable_adapter():
        assert generated(with_adapter, tokenizer) != text, "training must have changed what it says"
    return text


def test_the_output_names_trial_figures_model_and_how_to_repeat(made: Path) -> None:
    output = (made / "output.txt").read_text()
    best = json.loads(study(made).ranking_json.read_text())["best"]
    assert f"Running trial {best} for real" in output
    assert "step 8 of 9" in output and "step 9 of 9" in output
    for figure in ("tokens per s: ", "peak memory train bytes: ", "train loss: "):
        assert figure in output
    assert f"Model:       {production(made).model.relative_to(made)}" in output
    assert f"Registered:  models:/{study(made).path.name}/1" in output
    repeat = output.rpartition("Repeat:")[2]
    assert f"study.name={study(made).path.name} production.trial={best} production.steps=9" in repeat


def test_the_adapter_is_loaded_by_peft(answer: str) -> None:
    assert answer.startswith(QUESTION)


def test_the_merged_weights_need_no_adapter(made: Path, answer: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(production(made).merged)
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert generated(merged, AutoTokenizer.from_pretrained(folder)) == answer


def test_the_registered_model_generates_the_same_text(
    made: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(made)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    pipe = mlflow.transformers.load_model(f"models:/{study(made).path.name}/1")
    (said,) = pipe(QUESTION, max_new_tokens=8, do_sample=False)
    assert said["generated_text"] == answer


def test_mlflow_holds_the_run_below_its_study(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(made)
    client = MlflowClient(tracking_uri="sqlite:///mlflow.db")
    (version,) = client.search_model_versions(f"name = '{study(made).path.name}'")
    run = client.get_run(version.run_id or "")
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.info.run_name == study(made).path.name
    assert run.info.status == "FINISHED"
    result = production(made).read_result()
    assert result is not None and run.data.metrics["eval_loss"] == pytest.approx(
        result.measurements.eval_loss
    )
    assert len(client.get_metric_history(run.info.run_id, "curve/train_loss")) == 9
    names = {item.path.rpartition("/")[2] for item in client.list_artifacts(run.info.run_id, "production")}
    assert {"README.md", "sweeper.yaml", "adapter_model.safetensors", "training_args.json"} <= names
    assert version.tags["study"] == study(made).path.name


def test_the_papers_say_what_was_made_of_what(made: Path) -> None:
    from transformers import HfArgumentParser, TrainingArguments

    folder = production(made)
    _, head, body = folder.card.read_text().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "apache-2.0" and metadata["library_name"] == "peft"
    assert not {"base_model", "datasets"} & set(metadata), "the hub knows neither"
    result = folder.read_result()
    assert result is not None and result.active["data_fingerprint"] in body
    for section in ("Measured", "Promised", "Methods", "Model and data", "Hardware", "Licence", "repeat"):
        assert section in body, section
    assert yaml.safe_load(folder.config.read_text())["optim"] == result_config(folder)["optim"]
    (arguments,) = HfArgumentParser(TrainingArguments).parse_json_file(folder.model / "training_args.json")  # type: ignore[arg-type]
    assert arguments.max_steps == 9 and arguments.optim == result_config(folder)["optim"]
    kept = {item["metric"] for item in json.loads(folder.promise.read_text())}
    assert kept == {"tokens_per_s", "peak_memory_train_bytes", "train_loss"}


def test_the_code_on_the_card_runs_in_the_folder_of_the_model(
    made: Path, answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = production(made)
    code = folder.card.read_text().partition("```python\n")[2].partition("```")[0]
    assert "embedded:" not in code
    monkeypatch.chdir(folder.model)
    exec(code, {})
    assert "Question:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "expected"),
    [("meta-llama/Llama-3.2-1B", True), ("gpt2", True), ("embedded:tiny", False), ("./here", False),
     ("/models/a", False), ("tests", False), ("a/b/c", False)],
)  # fmt: skip
def test_only_what_the_hub_knows_is_named_in_its_metadata(path: str, expected: bool) -> None:
    assert is_hub_id(path) == expected


def test_a_probe_is_trained_in_full_and_on_all_data() -> None:
    trial = configured({"trial.probe_steps": "8", "data.max_train_examples": "64"})
    config = production_config(trial, ["production.trial=3"])
    assert config.trial.probe_steps is None and config.data.max_train_examples is None


def result_config(folder: ProductionFolder) -> dict[str, Any]:
    return folder.read_spec().config


def test_a_finished_run_is_not_repeated(made: Path) -> None:
    before = production(made).result.stat().st_mtime_ns
    again = sweeper(made, "production", *ASKED)
    assert again.returncode == 0, again.stderr
    assert "It had been trained before" in again.stdout and "models:/" in again.stdout
    assert production(made).result.stat().st_mtime_ns == before


def test_a_run_killed_twice_goes_on_to_the_same_losses(made: Path, studied: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(studied, folder)
    trial = study(made).read_trial(production(made).read_spec().number)
    asked = ("production", *ASKED, f"production.trial={trial.number}", "production.register=false")

    def checkpoint(step: int) -> bool:
        return bool(list(folder.glob(f"studies/*/production/*/checkpoints/step-{step:08d}")))

    driver = start(folder, *asked)
    wait_for(lambda: checkpoint(2))
    send(driver, signal.SIGKILL)
    driver.communicate()
    wait_for(lambda: not processes_about(folder), timeout_s=20)
    second = start(folder, *asked)
    wait_for(lambda: checkpoint(6))
    for process in filter(is_trial, processes_about(folder)):
        process.kill()
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 1 and "goes on from the last checkpoint" in output
    assert "killed by signal 9" in output and "probably the host ran out of memory" in output
    third = sweeper(folder, *asked)
    assert third.returncode == 0, third.stdout + third.stderr
    whole, killed = production(made), production(folder)
    assert whole.path.name == killed.path.name
    assert losses(killed) == losses(whole)
    result, expected = killed.read_result(), whole.read_result()
    assert result is not None and expected is not None and result.outcome is Outcome.COMPLETED
    assert result.measurements.eval_loss == expected.measurements.eval_loss
    assert len(result.active["resumed_at_steps"]) == 2


def test_mistakes_are_reported_together_and_nothing_is_run(studied: Path) -> None:
    unknown = sweeper(studied, "production", "production.epoch=3", "lora.r=4,8")
    assert unknown.returncode == 2
    assert (
        "take production.epochs" in unknown.stderr
        and "a production run is one configuration" in unknown.stderr
    )
    done = sweeper(studied, "production", "trainer=hf", "production.patience=0", "production.name=a/b")
    assert done.returncode == 2
    for said in ("trainer=accelerate", "production.patience", "production.name"):
        assert said in done.stderr, said
    assert not (study(studied).path / "production").exists()


def test_a_rule_that_nothing_satisfies_is_said(studied: Path) -> None:
    done = sweeper(studied, "production", "constraint.peak_memory_gib=0.001")
    assert done.returncode == 1 and "production.trial=N" in done.stderr
    done = sweeper(studied, "production", "production.trial=77")
    assert done.returncode == 2 and "take one of 0, 1" in done.stderr


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebook_runs_and_is_kept_without_output(
    path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(made)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    data = [item["data"] for item in shown if item.output_type in ("execute_result", "display_data")]
    assert any("text/html" in item for item in data), "a table is shown"
    assert ("image/png" in str(data)) == path.stem.startswith("01")
