"""Every method trains the tiny model, and was active while it did."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import Outcome, TrialResult

RunTrial = Callable[..., tuple[TrialResult, TrialFolder]]
Trained = Callable[..., TrialResult]

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora_on_all_linear_layers": {"lora.target_modules": "all-linear"},
    "lora_on_named_modules": {"lora.target_modules": ("k_proj", "o_proj")},
    "lora_with_dropout": {"lora.dropout": 0.1},
    "rslora": {"lora.use_rslora": True},
    "dora": {"lora.use_dora": True},
    "qlora_int8": {"quantization": "int8"},
    "qlora_nf4": {"quantization": "nf4"},
    "qlora_nf4_bf16_checkpointed": {"quantization": "nf4", "precision": "bf16", "checkpointing": True},
    "qlora_nf4_bf16_pure": {"quantization": "nf4", "precision": "bf16_pure"},
    "qlora_int8_bf16": {"quantization": "int8", "precision": "bf16"},
    "qlora_nf4_dora": {"quantization": "nf4", "lora.use_dora": True},
    "full": {"adapter": "full", "train.learning_rate": 1e-3},
    "full_checkpointed": {"adapter": "full", "checkpointing": True},
    "one_large_batch": {"batch.micro": 16},
    "accumulation_set": {"batch.micro": 2, "batch.accumulation": 3},
    "checkpointing": {"checkpointing": True},
    "bf16": {"precision": "bf16"},
    "bf16_pure": {"precision": "bf16_pure"},
    "full_bf16_pure": {"precision": "bf16_pure", "adapter": "full"},
    "eager": {"attention": "eager"},
    "sdpa": {"attention": "sdpa"},
    "attention_of_the_class": {"attention": "auto"},
    "adamw_fused": {"optim": "adamw_torch_fused"},
    "adafactor": {"optim": "adafactor"},
    "bnb8": {"optim": "adamw_bnb_8bit", "lora.r": 32},
    "paged_bnb8": {"optim": "paged_adamw_8bit", "lora.r": 32},
    "full_bnb8": {"optim": "adamw_bnb_8bit", "adapter": "full"},
    "lion_by_its_transformers_name": {"optim": "lion_32bit"},
    "sgd_by_its_transformers_name": {"optim": "sgd", "train.learning_rate": 1.0},
    "packing": {"data.packing": True},
    "hf": {"trainer": "hf"},
    "hf_full": {"trainer": "hf", "adapter": "full"},
    "hf_bf16_checkpointed": {"trainer": "hf", "precision": "bf16", "checkpointing": True},
    "hf_qlora_nf4": {"trainer": "hf", "quantization": "nf4"},
    "hf_qlora_int8": {"trainer": "hf", "quantization": "int8"},
    "hf_bnb8": {"trainer": "hf", "optim": "adamw_bnb_8bit", "lora.r": 32},
}


@pytest.fixture(scope="module")
def finished() -> dict[str, TrialResult]:
    """Trials that ended, by what was asked of them."""
    return {}


@pytest.fixture
def trained(run_trial: RunTrial, finished: dict[str, TrialResult]) -> Trained:
    """The result of a trial, which is run once however many tests look at it."""

    def result(**overrides: Any) -> TrialResult:
        asked = {} if "batch.micro" in overrides else {"batch.effective": 8}
        key = json.dumps(overrides, sort_keys=True)
        if key not in finished:
            finished[key], _ = run_trial(**asked, **overrides)
        return finished[key]

    return result


@pytest.mark.parametrize("name", METHODS)
def test_method_trains_on_cpu(name: str, trained: Trained) -> None:
    result = trained(**METHODS[name])
    measured = result.measurements
    assert result.outcome is Outcome.COMPLETED
    assert measured.eval_loss is not None and measured.eval_loss_before is not None
    assert measured.eval_loss < measured.eval_loss_before
    assert result.active["weights_moved"]
    assert measured.steps == 6 and measured.measured_steps == 3
    assert measured.tokens_per_s is not None and measured.padded_tokens_per_s is not None
    assert measured.tokens_per_s <= measured.padded_tokens_per_s


CUDA_METHODS: dict[str, dict[str, Any]] = {
    "tf32": {"precision": "tf32"},
    "fp16": {"precision": "fp16"},
    "fp16_over_a_float32_base": {"precision": "fp16", "model.dtype": "float32"},
    "fp16_hf": {"precision": "fp16", "trainer": "hf"},
    "int8": {"quantization": "int8"},
    "nf4_bf16": {"quantization": "nf4", "precision": "bf16"},
    "int8_dora": {"quantization": "int8", "lora.use_dora": True},
    "bnb8": {"optim": "adamw_bnb_8bit", "lora.r": 32},
    "paged_bnb8": {"optim": "paged_adamw_8bit", "adapter": "full", "model.dtype": "float32"},
}


@on_cuda
@pytest.mark.parametrize("name", CUDA_METHODS)
def test_method_trains_on_cuda(name: str, run_trial: RunTrial) -> None:
    result, _ = run_trial(**{"trial.device": "cuda", **CUDA_METHODS[name]})
    assert result.outcome is Outcome.COMPLETED
    assert result.measurements.peak_memory_reserved_bytes is not None


@on_cuda
def test_flash_attention_trains(run_trial: RunTrial) -> None:
    pytest.importorskip("flash_attn", reason="needs the package flash_attn")
    overrides = {"trial.device": "cuda", "attention": "flash_attention_2", "precision": "bf16_pure"}
    result, _ = run_trial(**overrides)
    assert result.active["attention"] == "flash_attention_2"


def test_lora_starts_at_the_base_model(trained: Trained) -> None:
    result = trained()
    full = trained(adapter="full")
    assert result.active["lora_a_is_random"] and result.active["lora_b_is_zero"]
    assert result.active["base_frozen"]
    assert result.measurements.eval_loss_before == pytest.approx(full.measurements.eval_loss_before)


def test_lora_takes_query_and_value_projections_by_default(trained: Trained) -> None:
    result = trained(**{"lora.r": 4})
    assert result.active["adapter_modules"] == 4  # two layers, two projections each
    assert result.measurements.trainable_parameters == 4 * 2 * 4 * 128
    total = result.measurements.total_parameters
    assert total is not None
    assert result.measurements.trainable_share == pytest.approx(4096 / total)


def test_rslora_scales_by_the_root_of_the_rank(trained: Trained) -> None:
    result = trained(**{"lora.use_rslora": True, "lora.r": 16, "lora.alpha": 16})
    assert result.active["adapter_scaling"] == [4.0]


@pytest.mark.parametrize(("quantization", "layer"), [("int8", "Linear8bitLt"), ("nf4", "Linear4bit")])
def test_quantized_layers_replace_the_linear_ones(quantization: str, layer: str, trained: Trained) -> None:
    result = trained(quantization=quantization)
    assert result.active["linear_classes"] == {layer: 14, "Linear": 1}  # the head stays as it is


def test_packed_4_bit_weights_count_their_logical_elements(trained: Trained) -> None:
    packed = trained(quantization="nf4")
    plain = trained()
    assert packed.measurements.total_parameters == plain.measurements.total_parameters


def test_bf16_pure_holds_everything_in_bfloat16(trained: Trained) -> None:
    result = trained(precision="bf16_pure")
    assert set(result.active["base_dtypes"]) == {"bfloat16"}
    assert set(result.active["trainable_dtypes"]) == {"bfloat16"}
    assert set(result.active["optimizer_state_dtypes"]) == {"bfloat16"}


@pytest.mark.parametrize(
    ("asked", "base", "trained_in"),
    [
        ({}, "bfloat16", "float32"),
        ({"model.dtype": "float32"}, "float32", "float32"),
        ({"adapter": "full"}, "float32", "float32"),
    ],
    ids=["a frozen base in 16 bit", "the paper's float32 base", "master weights of a full fine-tune"],
)
def test_bf16_computes_in_bfloat16_over(
    asked: dict[str, Any], base: str, trained_in: str, trained: Trained
) -> None:
    result = trained(precision="bf16", **asked)
    assert set(result.active["base_dtypes"]) == {base}
    assert set(result.active["trainable_dtypes"]) == {trained_in}
    assert set(result.active["optimizer_state_dtypes"]) == {trained_in}
    assert result.active["compute_dtype"] == "bfloat16"


@pytest.mark.parametrize("trainer", ["accelerate", "hf"])
def test_checkpointing_recomputes_and_keeps_the_loss(trainer: str, trained: Trained) -> None:
    with_it = trained(checkpointing=True, trainer=trainer)
    without = trained(trainer=trainer)
    assert with_it.active["recomputed"] is True and without.active["recomputed"] is False
    assert with_it.measurements.eval_loss == pytest.approx(without.measurements.eval_loss)


@pytest.mark.parametrize(
    ("optim", "bytes_per_parameter", "tolerance"),
    [("adamw_torch", 8.0, 0.01), ("adamw_bnb_8bit", 2.0, 0.1), ("lion_32bit", 4.0, 0.01), ("sgd", 0.0, 0)],
)
def test_optimizer_state_is_weighed(
    optim: str, bytes_per_parameter: float, tolerance: float, trained: Trained
) -> None:
    result = trained(optim=optim, **{"lora.r": 32})
    found = result.measurements.optimizer_state_bytes_per_parameter
    assert found == pytest.approx(bytes_per_parameter, abs=tolerance)


def test_adafactor_state_is_factored(trained: Trained) -> None:
    result = trained(optim="adafactor", adapter="full")
    found = result.measurements.optimizer_state_bytes_per_parameter
    assert found is not None and found < 0.1


def test_8_bit_optimizer_without_8_bit_state_is_not_measured_under_its_name(trained: Trained) -> None:
    from trainers.proof import NotActiveError

    with pytest.raises(NotActiveError, match=r"raise lora\.r") as caught:
        trained(optim="adamw_bnb_8bit", **{"lora.r": 2})
    assert caught.value.result.outcome is Outcome.CRASHED
    assert caught.value.result.active["optimizer_state_dtypes"] == {"float32": 16}
    assert caught.value.result.measurements.steps == 1, "it shows after the first step: no other is paid"
