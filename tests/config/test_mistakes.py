"""Mistakes in the configuration: all found before the first trial, reported together."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import SHORT, sweeper

MISTAKES = {
    "lora.rnk=8": "lora.r",
    "optim=adamv": "adamw",
    "lora.r=many": "lora.r",
    "lora.dropout=1.5": "lora.dropout",
    "batch.micro=3": "must divide batch.effective",
    "attention=flash_attention_2": "needs a CUDA device",
    "precision=fp16": "precision=fp16 needs CUDA",
    "objective.maximize=speed": "must be a measured metric",
    "study.name=a/b": "study.name",
    "+lora.depth=3": "lora.depth",
    "lora.alpha=8,16,": "must parse",
    "model=hf": "model.path=…",
    "data=jsonl": "data.path=…",
}
ALONE = {
    "model=hf model.path=./nowhere": "the model's folder must exist",
    "data=jsonl data.path=nowhere.jsonl": "nowhere.jsonl",
    "quantization=nf4 adapter=full": "cannot be trained",
    "lora.r=0": "lora.r",
    "study.root=/proc/nothing": "study.root must be a folder that can be written",
    "study.root=/dev/null": "study.root must be a folder that can be written",
    "study.root=''": "study.root must be a folder that can be written",
    "study.name=.cache": "study.name must be a folder name",
    "study.name=2024": "study.name='2024'",
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is said about all the mistakes at once."""
    folder = tmp_path_factory.mktemp("refused")
    done = sweeper(folder, *MISTAKES)
    assert_refused(folder, done)
    return done.stderr


def assert_refused(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert not list(folder.glob("studies/*/trials")) and not (folder / "mlflow.db").exists()


@pytest.mark.parametrize(("typed", "said"), MISTAKES.items(), ids=list(MISTAKES))
def test_every_mistake_is_named_with_its_key_and_a_remedy(refused: str, typed: str, said: str) -> None:
    assert said in refused, typed
    assert f"{len(MISTAKES) + 1} mistakes" in refused, "flash attention lacks a device and its package"


@pytest.mark.parametrize(("typed", "said"), ALONE.items(), ids=list(ALONE))
def test_a_mistake_that_others_would_hide_is_refused_alone(tmp_path: Path, typed: str, said: str) -> None:
    done = sweeper(tmp_path, *typed.split())
    assert_refused(tmp_path, done)
    assert said in done.stderr


def test_all_mistakes_of_all_cells_come_in_one_message(tmp_path: Path) -> None:
    done = sweeper(
        tmp_path, "-m", "lora.rr=8,16", "optim=adamw,adafacto", "lora.alpha=x", "precision=fp16,fp32",
        "batch.micro=3", "lora.target_modules=[q_proj,nothing]", "data.max_length=4096",
        "tracking.uri=http://127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode == 2
    for said in ("lora.rr", "adafacto", "lora.alpha", "fp16", "batch.micro", "nothing", "4096", ":9"):
        assert said in done.stderr, said


def test_options_that_the_source_of_the_data_ignores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"text": "a"}\n')
    done = sweeper(tmp_path, "data.path=mine.jsonl", "data.eval_path=held.jsonl", "data.name=main")
    assert_refused(tmp_path, done)
    said = " ".join(done.stderr.split())
    assert "data.path has no effect with the embedded data" in said
    assert "mine.jsonl" in said and "add data=jsonl to train on a file" in said
    assert "data.eval_path has no effect" in said and "data.name has no effect" in said


def test_a_malformed_line_is_named_by_its_number(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": "a", "completion": "b"}), '{"prompt": "a", ']
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    done = sweeper(tmp_path, "data=jsonl", "data.path=data.jsonl", *SHORT)
    assert done.returncode == 2
    assert "data.jsonl:2: each line must be a JSON object" in done.stderr
    assert not (tmp_path / "mlflow.db").exists()
