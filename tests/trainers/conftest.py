"""A random-weight Llama with its tokenizer, a GSM8K-shaped data set, and a way to run one trial on them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries read it: no test may reach the network

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from bitsandbytes.optim import GlobalOptimManager  # type: ignore[attr-defined]

from sweeper.contract.config import Config, from_dict
from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import TrialResult, TrialSpec
from tests.support.samples import QUICK, save_llama, write_gsm8k

torch.set_num_threads(1)  # several test processes with a thread per core each would wait for one another


@pytest.fixture(autouse=True)
def fresh_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trials have a process each; several in one process must not see each other's global state."""
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    GlobalOptimManager.get_instance().initialize()  # it knows parameters by id, and ids come again
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def gsm8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 GSM8K-shaped rows as JSON Lines."""
    path = tmp_path_factory.mktemp("data") / "gsm8k.jsonl"
    write_gsm8k(path, 200)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama of 0.4 M random parameters and its byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    save_llama(folder)
    return folder


@pytest.fixture
def make_config(tiny_model: Path, gsm8k: Path) -> Callable[..., Config]:
    """`make_config(**{"lora.r": 4})`: a configuration on the tiny model and GSM8K-shaped data."""

    def make(**overrides: Any) -> Config:
        values = Config().to_dict()
        base = {
            "model.path": str(tiny_model),
            "data.path": str(gsm8k),
            "data.source": "file",
            "data.prompt_field": "question",
            "data.completion_field": "answer",
            "train.steps": 6,
            "trial.device": "cpu",
        }
        for key, value in {**base, **overrides}.items():
            *groups, name = key.split(".")
            place = values
            for group in groups:
                place = place[group]
            assert name in place, f"no option {key}"
            place[name] = value
        return from_dict(values)

    return make


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of tokenised data that the tests share, as trials of a study do."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run_trial(
    make_config: Callable[..., Config], cache_dir: Path, tmp_path: Path
) -> Callable[..., tuple[TrialResult, TrialFolder]]:
    """Run one trial; returns its result and its folder."""
    from trainers import trial

    def run(stop: dict[str, str] | None = None, **overrides: Any) -> tuple[TrialResult, TrialFolder]:
        folder = TrialFolder(tmp_path / f"trial-{len(list(tmp_path.iterdir()))}")
        config = make_config(**{**QUICK, **overrides}).to_dict()
        spec = TrialSpec(study="test", number=0, key="key", config=config, cache_dir=str(cache_dir))
        folder.write_spec(spec)
        if stop is not None:
            folder.stop.write_text(json.dumps(stop))
        return trial.run(spec, folder), folder

    return run
