"""A study that an earlier version recorded opens, ranks, exports and goes on as it did then.

`tests/fixtures/recorded` was made on 2 cores of a CPU by `python -m sweeper -m
lora.r=8,16 optim=adamw,adafactor train.steps=6 trial.warmup_steps=1
data.max_train_examples=64 data.max_eval_examples=8 evaluate.general=4 study.name=recorded`, without what
takes space; `exported.json` is what `export --format=json` gave.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sweeper.contract.config import from_dict
from sweeper.preflight.inputs import trial_key
from sweeper.study.folder import StudyFolder
from tests.support.commands import sweeper
from tests.support.sources import ROOT

RECORDED = ROOT / "tests" / "fixtures" / "recorded"
IDENTITY = {
    "model": "03fec27e860a74c7cca8c3625b8ba78a",
    "data": "83899f55f6c0b6dccd4ac895abfce649",
    "device": "cpu AMD EPYC",
    "threads": "2",
    "versions": {
        "sweeper": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "peft": "0.21.2",
        "accelerate": "1.15.0", "bitsandbytes": "0.50.2", "datasets": "5.2.0",
    },
}  # fmt: skip
"""What those trials rested on besides their options: the embedded model and data as they were then."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(RECORDED, tmp_path / "studies" / "recorded")
    return tmp_path


def test_its_trials_have_the_keys_that_they_had() -> None:
    """Or their work would be measured again."""
    records = StudyFolder(RECORDED).read_trials()
    keys = [trial_key(from_dict(record.spec.config).to_dict(), IDENTITY) for record in records]
    assert keys == [record.spec.key for record in records] and len(set(keys)) == 4


def test_it_has_the_same_best_trial(folder: Path) -> None:
    done = sweeper(folder, "best", "study.name=recorded")
    assert done.returncode == 0, done.stderr
    assert "Study recorded: ended, 4 of 4 cells" in done.stdout
    assert "Best: trial 1, lora.r=8 optim=adafactor" in done.stdout
    assert "first trial 0 (4,761 tokens/s): eval_loss 4.3795 > 4.2779" in done.stdout


def test_it_is_exported_with_the_same_figures(folder: Path) -> None:
    done = sweeper(folder, "export", "--format=json", "study.name=recorded")
    before: list[dict[str, Any]] = json.loads((RECORDED / "exported.json").read_text(encoding="utf-8"))
    now = json.loads(done.stdout)
    for old, new in zip(before, now, strict=True):
        assert {name: new.get(name) for name in old if name != "folder"} == {
            name: value for name, value in old.items() if name != "folder"
        }
