"""What was asked for and did not take effect is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import peft
import pytest
from torch import nn

from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import TrialResult
from tests.support.sources import TRIAL_SOURCES, label
from trainers.methods import adapters, precision
from trainers.proof import NotActiveError, describe_model, find_mismatches, find_qualifications
from trainers.setup import build_model

MakeConfig = Callable[..., Config]
RunTrial = Callable[..., tuple[TrialResult, TrialFolder]]


def loaded(config: Config) -> nn.Module:
    return build_model(config, precision.device(config))


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
    assert find_mismatches(config, sound) == []
    (reason,) = find_mismatches(config, sound | found)
    assert re.search(said, reason), reason


def test_layers_that_stayed_whole_and_adapters_that_are_lacking_are_found(make_config: MakeConfig) -> None:
    config = make_config(quantization="nf4", **{"lora.target_modules": "all-linear"})
    model: Any = loaded(config)
    assert find_mismatches(config, describe_model(model, config)) == []
    attention = model.get_base_model().model.layers[1].self_attn
    attention.q_proj = nn.Linear(128, 128)
    active = describe_model(model, config)
    assert active["unquantized_linears"] == ["model.layers.1.self_attn.q_proj"] == active["adapters_missing"]
    assert active["adapters_beyond"] == []


@pytest.mark.parametrize(
    "targets", ["query_value", ("self_attn.k_proj", "layers.1.mlp.up_proj"), ("lm_head",)]
)
def test_adapters_are_where_the_target_modules_say(targets: Any, make_config: MakeConfig) -> None:
    config = make_config(**{"lora.target_modules": targets})
    model = loaded(config)
    assert find_mismatches(config, describe_model(model, config)) == []
    other = make_config(**{"lora.target_modules": ("o_proj",)})
    active = describe_model(model, other)
    assert len(active["adapters_missing"]) == 2 and active["adapters_beyond"]


def test_paged_optimizer_on_a_cpu_is_recorded_as_unpaged(
    run_trial: RunTrial, make_config: MakeConfig
) -> None:
    result, _ = run_trial(optim="paged_adamw_8bit", **{"lora.r": 32, "train.steps": 1})
    assert result.active["optimizer_paged"] is False
    assert "is not paged here" in result.definitions["optim"]
    paged = {"optimizer_paged": True}
    assert find_qualifications(make_config(optim="paged_adamw_8bit"), paged) == {}
    assert find_qualifications(make_config(), {"optimizer_paged": False}) == {}


def test_what_the_loaded_model_shows_ends_the_trial_before_it_trains(
    run_trial: RunTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_scaling(base: Any, settings: Any, **options: Any) -> Any:
        settings.lora_alpha = 1
        return peft.get_peft_model(base, settings, **options)

    monkeypatch.setattr(adapters, "get_peft_model", other_scaling)
    with pytest.raises(NotActiveError, match="scaling") as caught:
        run_trial()
    measured = caught.value.result.measurements
    assert measured.steps is None and measured.eval_loss_before is None and measured.trainable_parameters


def test_no_option_of_a_method_is_compared_outside_of_its_file() -> None:
    """Else a method would be more than one place to change."""
    compared = re.compile(r"config\.(quantization|checkpointing|attention|adapter|optim|precision)\b")
    others = [path for path in TRIAL_SOURCES if "methods" not in path.parts]
    found = {label(path): compared.findall(path.read_text(encoding="utf-8")) for path in others}
    assert {name: options for name, options in found.items() if options} == {
        "trainers/production/publish.py": ["adapter", "adapter"],  # the kind of files that are published
    }
