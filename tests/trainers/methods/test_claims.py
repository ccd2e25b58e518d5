"""What was asked for and did not take effect is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import TrialResult
from trainers.methods import precision
from trainers.methods.active import model_activity
from trainers.methods.adapters import add_adapter
from trainers.methods.expected import mismatches, qualifications
from trainers.methods.model import load_base

MakeConfig = Callable[..., Config]
RunTrial = Callable[..., tuple[TrialResult, TrialFolder]]


def loaded(config: Config) -> nn.Module:
    return add_adapter(load_base(config, precision.device(config)), config)


@pytest.fixture(scope="module")
def sound() -> dict[str, Any]:
    """What a LoRA on an NF4 base leaves, in short."""
    return {
        "linear_classes": {"Linear4bit": 14, "Linear": 1},
        "unquantized_linears": [],
        "quantization_types": {"nf4": 14},
        "double_quantization": True,
        "quantized_compute_dtypes": {"float32": 14},
        "compute_dtypes": {"float32": 2},
        "base_frozen": True,
        "adapter_modules": 4,
        "adapters_missing": [],
        "adapters_beyond": [],
        "adapter_ranks": [8],
        "adapter_scaling": [2.0],
        "dora": False,
        "lora_a_is_random": True,
        "lora_b_is_zero": True,
        "optimizer_class": "torch.optim.adamw.AdamW",
        "optimizer_state_dtypes": {"float32": 8},
        "optimizer_fused": False,
        "optimizer_paged": False,
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"adapter_scaling": [1.0]}, "scaling"),
        ({"adapter_ranks": [8, 16]}, "rank"),
        ({"adapters_missing": ["model.layers.1.self_attn.q_proj"]}, r"layers\.1\.self_attn\.q_proj has none"),
        ({"adapters_beyond": ["lm_head"]}, "lm_head has one"),
        ({"optimizer_class": "torch.optim.adam.Adam"}, r"optim.*torch\.optim\.adamw\.AdamW"),
        ({"quantization_types": {"fp4": 14}}, "type 'nf4', but has 'fp4'"),
        ({"quantization_types": {"fp4": 1, "nf4": 13}}, "type 'nf4'"),
        ({"double_quantization": False}, "double quantisation"),
        ({"quantized_compute_dtypes": {"float32": 13, "bfloat16": 1}}, "compute type 'float32'"),
        ({"unquantized_linears": list("abcde")}, "a, b, c and 2 more"),
        ({"compute_dtypes": {"bfloat16": 2}}, "precision.*'float32', found 'bfloat16'"),
        ({"compute_dtypes": {"float32": 1, "bfloat16": 1}}, "precision.*'float32'"),
    ],
)
def test_method_that_did_not_take_effect_is_named(
    found: dict[str, Any], said: str, sound: dict[str, Any], make_config: MakeConfig
) -> None:
    config = make_config(quantization="nf4")
    assert mismatches(config, sound) == []
    (reason,) = mismatches(config, sound | found)
    assert re.search(said, reason), reason


def test_layers_that_stayed_whole_and_adapters_that_are_lacking_are_found(make_config: MakeConfig) -> None:
    config = make_config(quantization="nf4", **{"lora.target_modules": "all-linear"})
    model: Any = loaded(config)
    assert mismatches(config, model_activity(model, config)) == []
    attention = model.get_base_model().model.layers[1].self_attn
    attention.q_proj = nn.Linear(128, 128)
    active = model_activity(model, config)
    assert active["unquantized_linears"] == ["model.layers.1.self_attn.q_proj"] == active["adapters_missing"]
    assert active["adapters_beyond"] == []


@pytest.mark.parametrize(
    "targets", ["query_value", ("self_attn.k_proj", "layers.1.mlp.up_proj"), ("lm_head",)]
)
def test_adapters_are_where_the_target_modules_say(targets: Any, make_config: MakeConfig) -> None:
    config = make_config(**{"lora.target_modules": targets})
    model = loaded(config)
    assert mismatches(config, model_activity(model, config)) == []
    other = make_config(**{"lora.target_modules": ("o_proj",)})
    active = model_activity(model, other)
    assert len(active["adapters_missing"]) == 2 and active["adapters_beyond"]


def test_paged_optimizer_on_a_cpu_is_recorded_as_unpaged(
    run_trial: RunTrial, make_config: MakeConfig
) -> None:
    result, _ = run_trial(optim="paged_adamw_8bit", **{"lora.r": 32, "train.steps": 1})
    assert result.active["optimizer_paged"] is False
    assert "is not paged here" in result.definitions["optim"]
    paged = {"optimizer_paged": True}
    assert qualifications(make_config(optim="paged_adamw_8bit"), paged) == {}
    assert qualifications(make_config(), {"optimizer_paged": False}) == {}
