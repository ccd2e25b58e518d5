"""What was found about models and data is asked again only when something that it rests on has changed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sweeper.config.cell import Cell
from sweeper.contract.config import Config, DataConfig, ModelConfig
from sweeper.contract.json_files import read_json, write_json
from sweeper.launchers.recorded import RecordedJob, RecordedLauncher
from sweeper.machine import Machine
from sweeper.preflight.inputs import Identities
from tests.support.recorded import answer
from trainers.data.fingerprints import Memo, file_hash

HERE = Machine(cpu="test")


@dataclass
class Counting(RecordedLauncher):
    """Notes how many configurations each look was asked about; finds a problem if told to."""

    looks: list[int] = field(default_factory=list)
    finds: tuple[dict[str, str], ...] = ()

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> RecordedJob:
        self.looks.append(len(read_json(folder / "prepare.json")["configs"]))
        job = super().submit(verb, folder, stdout, stderr)
        found = read_json(folder / "prepared.json")
        write_json(
            folder / "prepared.json", {"cells": [{**c, "problems": self.finds} for c in found["cells"]]}
        )
        return job


@pytest.fixture
def asked(tmp_path: Path) -> Config:
    """A configuration with a model and data of one's own."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n')
    data = DataConfig(path=str(tmp_path / "train.jsonl"), source="file")
    return dataclasses.replace(Config(), model=ModelConfig(path=str(tmp_path / "model")), data=data)


def looks(config: Config, cache: Path, finds: tuple[dict[str, str], ...] = ()) -> list[int]:
    """What a driver that starts now has to ask; looked at twice, as a study does."""
    launcher = Counting(answer, finds=finds)
    identities = Identities(launcher, cache, HERE)
    for _ in range(2):
        identities.key_of_any(Cell({}, config))
    return launcher.looks


def test_an_unchanged_model_with_unchanged_data_is_looked_at_once(tmp_path: Path, asked: Config) -> None:
    assert [looks(asked, tmp_path / "cache") for _ in range(3)] == [[1], [], []]
    (tmp_path / "train.jsonl").write_text('{"text": "two"}\n')
    assert [looks(asked, tmp_path / "cache") for _ in range(2)] == [[1], []]
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"0")
    assert [looks(asked, tmp_path / "cache") for _ in range(2)] == [[1], []]


def test_what_lies_on_a_hub_and_what_was_wrong_is_looked_at_again(tmp_path: Path, asked: Config) -> None:
    there = dataclasses.replace(asked, model=ModelConfig(path="somebody/model"))
    assert [looks(there, tmp_path / "cache") for _ in range(2)] == [[1], [1]]
    problem = {"rule": "data must be sound", "key": "data.path", "value": "it", "remedy": "mend it"}
    assert [looks(asked, tmp_path / "cache", finds=(problem,)) for _ in range(2)] == [[1], [1]]


@pytest.mark.parametrize("text", ["", "{", "[1, 2, 3]\nnull\n", "\x00\xff"])
def test_a_cache_that_cannot_be_read_is_treated_as_empty(tmp_path: Path, asked: Config, text: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("looks.jsonl", "fingerprints.json"):
        (cache / name).write_text(text, encoding="latin-1")
    assert [looks(asked, cache) for _ in range(2)] == [[1], []]
    assert file_hash(tmp_path / "train.jsonl", Memo(cache)) == file_hash(
        tmp_path / "train.jsonl", Memo(cache)
    )
