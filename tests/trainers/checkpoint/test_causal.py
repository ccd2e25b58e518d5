"""A model that sees the answers is refused, whatever its class is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import (
    BartConfig,
    BertConfig,
    ElectraConfig,
    PretrainedConfig,
    RobertaConfig,
    T5Config,
    XLMConfig,
)

from sweeper.contract.config import Config
from tests.support.samples import SMALL_MODELS
from trainers.checkpoint.causal import find_causality_problems
from trainers.checkpoint.problems import find_model_problems


@pytest.mark.parametrize("kind", [BertConfig, RobertaConfig, ElectraConfig, XLMConfig])
def test_encoder_is_refused(kind: type[PretrainedConfig]) -> None:
    (problem,) = find_causality_problems("./model", kind(), trust_remote_code=False)
    assert (problem.key, problem.value) == ("model.path", "./model")
    assert "sees those after it too" in problem.rule and "is_decoder=true" in problem.remedy


@pytest.mark.parametrize("kind", [BartConfig, T5Config])
def test_encoder_decoder_is_refused(kind: type[PretrainedConfig]) -> None:
    (problem,) = find_causality_problems("./model", kind(), trust_remote_code=False)
    assert "an encoder and a decoder" in problem.rule


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_decoder_is_taken(name: str) -> None:
    assert find_causality_problems("./model", SMALL_MODELS[name], trust_remote_code=False) == []


def test_encoder_that_is_set_to_decode_is_taken() -> None:
    assert find_causality_problems("./model", BertConfig(is_decoder=True), trust_remote_code=False) == []


def test_code_of_a_model_runs_only_when_it_is_asked_for(
    tiny_model: Path, tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    values = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')\n")
    weights = "model.safetensors"
    (tmp_path / weights).write_bytes((tiny_model / weights).read_bytes())
    (problem,) = find_model_problems(make_config(**{"model.path": str(tmp_path)}).model, tmp_path / "cache")
    assert "code of its own" in problem.rule and "model.trust_remote_code=true" in problem.remedy
