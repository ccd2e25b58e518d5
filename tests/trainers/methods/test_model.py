"""Targets, positions and weights of models, found without loading them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, GPT2Config, GPTNeoXConfig, Phi3Config, PhiConfig, PretrainedConfig

from sweeper.contract.config import Config
from trainers.methods.adapters import check_targets, target_modules
from trainers.methods.precision import compute_dtype, device
from trainers.methods.quantization import settings as quantization_settings
from trainers.model.source import empty_model, load_config, max_positions
from trainers.setup import load_base

MakeConfig = Callable[..., Config]
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize(
    ("model_config", "expected"),
    [
        (GPT2Config(n_embd=32, n_layer=1, n_head=2), ["c_attn"]),
        (GPTNeoXConfig(vocab_size=64, **SMALL), ["query_key_value"]),
        (PhiConfig(vocab_size=64, **SMALL), ["q_proj", "v_proj"]),
        (Phi3Config(vocab_size=64, pad_token_id=0, **SMALL), ["qkv_proj"]),
        (BertConfig(vocab_size=64, is_decoder=True, **SMALL), ["query", "value"]),
    ],
)
def test_query_and_value_projections_are_found_in_each_architecture(
    model_config: PretrainedConfig, expected: list[str], make_config: MakeConfig, tmp_path: Path
) -> None:
    model_config.save_pretrained(tmp_path)
    config = make_config(**{"model.path": str(tmp_path)})
    found = target_modules(config, load_config(config.model), empty_model(config.model))
    assert found == expected
    assert check_targets(config) == []


def test_targets_that_the_model_lacks_are_named(make_config: MakeConfig) -> None:
    config = make_config(**{"lora.target_modules": ("q_proj", "query", "roj")})
    assert check_targets(config) == ["query", "roj"]


def test_checking_targets_reads_no_weights(make_config: MakeConfig, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    config = make_config(**{"model.path": str(tmp_path)})
    assert check_targets(config) == []
    assert all(weight.is_meta for weight in empty_model(config.model).parameters())


def test_positions_are_read_from_the_configuration(make_config: MakeConfig) -> None:
    assert max_positions(load_config(make_config().model)) == 256
    assert max_positions(GPT2Config(n_positions=77)) == 77


def test_unsafe_weight_files_are_not_loaded(
    make_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    config = make_config(**{"model.path": str(tmp_path)})
    with pytest.raises(OSError, match="safetensors"):
        load_base(config, device(config))


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("bf16_pure", torch.bfloat16),
    ],
)
def test_nf4_is_doubly_quantised_and_computes_in_the_precision(
    precision: str, expected: torch.dtype, make_config: MakeConfig
) -> None:
    config = make_config(quantization="nf4", precision=precision)
    settings = quantization_settings(config)
    assert settings is not None
    assert settings.bnb_4bit_use_double_quant and settings.bnb_4bit_quant_type == "nf4"
    assert settings.bnb_4bit_compute_dtype == compute_dtype(config) == expected
