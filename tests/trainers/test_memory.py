"""The prediction of memory: it agrees with the storages of real runs, and every architecture has one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    T5Config,
)

from sweeper.config import resolved
from sweeper.contract_memory import MemoryPrediction
from sweeper.schema import Config
from trainers.memory.allocator import CachingAllocator, cuda_block_bytes
from trainers.memory.counted import count
from trainers.memory.lengths import batches_of
from trainers.memory.predict import PredictionError, predict
from trainers.memory.steps import BatchShape
from trainers.memory.storages import StorageMeter
from trainers.model import architectures, load_config

MakeConfig = Callable[..., Config]
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WIDE: dict[str, Any] = {**SIZES, "intermediate_size": 48}
T5: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
}
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**WIDE, num_key_value_heads=1),
    "qwen2": Qwen2Config(**WIDE, num_key_value_heads=1),
    "mistral": MistralConfig(**WIDE, num_key_value_heads=1, sliding_window=4),
    "gemma2": Gemma2Config(**WIDE, num_key_value_heads=1, head_dim=16),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2),
    "opt": OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32),
    "falcon": FalconConfig(**SIZES),
    "phi3": Phi3Config(**WIDE, pad_token_id=0),
    "t5": T5Config.from_dict({**T5, "decoder_start_token_id": 0}),
    "bert": BertConfig(**WIDE, is_decoder=True),
}
METHODS: tuple[dict[str, Any], ...] = (
    {},
    {"trainer": "hf", "checkpointing": True, "precision": "bf16"},
    {"adapter": "full", "precision": "bf16_pure", "optim": "adafactor"},
    {"quantization": "nf4", "attention": "eager"},
    {"quantization": "int8", "batch.micro": 2},
    {"optim": "adamw_8bit", "adapter": "full", "trainer": "hf", "data.packing": True},
    {"lora.use_dora": True, "lora.dropout": 0.1},
)


@pytest.fixture
def make(make_config: MakeConfig) -> MakeConfig:
    def resolved_config(**overrides: Any) -> Config:
        return resolved(make_config(**{"train.steps": 2, "data.max_eval_examples": 8, **overrides}))

    return resolved_config


def at(length: int, padded: bool = True) -> BatchShape:
    return BatchShape(length, padded, length, padded)


@pytest.mark.parametrize("methods", METHODS, ids=lambda methods: " ".join(methods) or "default")
def test_the_prediction_is_what_a_real_run_counts(
    methods: dict[str, Any], make: MakeConfig, cache_dir: Path
) -> None:
    config = make(**methods)
    predicted = predict(config, batches_of(config, cache_dir).shapes, on_cuda=False)
    counted = count(config, cache_dir)
    assert predicted.peak_bytes == pytest.approx(counted.peak_bytes, rel=0.02)
    assert predicted.phases["backward"] == pytest.approx(counted.phases["backward"], rel=0.03)


@pytest.mark.parametrize("on_cuda", [False, True], ids=["cpu", "cuda"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_a_prediction(
    name: str, on_cuda: bool, make: MakeConfig, tmp_path: Path
) -> None:
    ARCHITECTURES[name].save_pretrained(tmp_path)
    attention = "eager" if name in ("gemma2", "t5") else "sdpa"
    options = {"model.path": str(tmp_path), "attention": attention, "lora.target_modules": "all-linear"}
    config = make(**options, precision="bf16", checkpointing=name != "bert")
    predicted = predict(config, [at(16)], on_cuda)
    assert set(predicted.phases) == {"load", "forward", "backward", "optimizer step", "evaluation"}
    assert predicted.peak_bytes == sum(predicted.parts.values()) > 0
    assert predicted.work["flops"] > predicted.work["model_flops"] / 2 > 0


def test_an_operation_that_fails_is_named(make: MakeConfig) -> None:
    config = make()

    def broken(_: Config) -> torch.nn.Module:
        return torch.nn.Linear(2, 3)(torch.ones(5, 7))  # type: ignore[no-any-return]

    with pytest.raises(PredictionError, match=r"aten\.\w+"):
        predict(config, [at(8)], False, broken)


def test_a_longer_batch_needs_more_and_packing_no_mask(make: MakeConfig) -> None:
    config = make(attention="eager")
    short, long = predict(config, [at(32)], False), predict(config, [at(64)], False)
    assert short.peak_bytes < long.peak_bytes
    packed = predict(config, [at(64, padded=False)], False)
    assert packed.peak_bytes <= long.peak_bytes


def test_cuda_keeps_no_scores_where_attention_is_fused(make: MakeConfig) -> None:
    def peak(**options: Any) -> int:
        config = make(**{"data.max_length": 256, "precision": "bf16", **options})
        return predict(config, [at(256, padded=False)], on_cuda=True).peak_bytes

    assert peak(attention="sdpa") < peak(attention="eager")
    assert peak(attention="flash_attention_2") == peak(attention="sdpa")


def test_reserved_memory_holds_the_allocated(make: MakeConfig) -> None:
    predicted = predict(make(), [at(32)], on_cuda=True)
    assert predicted.reserved_bytes is not None and predicted.reserved_bytes >= predicted.peak_bytes
    assert predicted.device == "cuda" and predicted.resident_bytes is None


def test_data_decides_the_length(make: MakeConfig, cache_dir: Path) -> None:
    batches = batches_of(make(**{"data.max_length": 200}), cache_dir)
    assert batches.shapes[0].length < 200 and not batches.notes
    packed = batches_of(make(**{"data.max_length": 64, "data.packing": True}), cache_dir)
    assert max(shape.length for shape in packed.shapes) == 64


def test_without_data_every_batch_is_as_long_as_allowed(
    make: MakeConfig, tmp_path: Path, cache_dir: Path
) -> None:
    ARCHITECTURES["llama"].save_pretrained(tmp_path)
    batches = batches_of(make(**{"model.path": str(tmp_path), "data.max_length": 40}), cache_dir)
    assert [shape.length for shape in batches.shapes] == [40]
    assert "data.max_length=40" in batches.notes[0]


@pytest.mark.parametrize("name", architectures())
def test_shipped_architectures_can_be_read(name: str, make: MakeConfig) -> None:
    config = make(**{"model.path": f"arch:{name}"})
    assert load_config(config.model).hidden_size


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-2-7b", 6_738_415_616),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("llama-3.1-8b", 8_030_261_248),
        ("mistral-7b", 7_241_732_096),
        ("smollm2-135m", 134_515_008),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-7b", 7_615_616_512),
        ("gemma-2-2b", 2_614_341_888),
    ],
)
def test_shipped_architectures_have_the_published_size(name: str, parameters: int, make: MakeConfig) -> None:
    """Sizes are those that the hub shows for each model (`safetensors` metadata)."""
    from trainers.memory.fakes import fake_base, fake_tensors

    with fake_tensors():
        model = fake_base(make(**{"model.path": f"arch:{name}", "attention": "eager"}))
    assert sum(weight.numel() for weight in model.parameters()) == parameters


def test_storages_are_counted_until_they_are_gone() -> None:
    meter = StorageMeter()
    with meter, meter.during("work", "things"):
        kept = torch.zeros(256)
        view = kept[:10]
        torch.zeros(1024)
    assert meter.peaks["work"].total_bytes == 256 * 4 + 1024 * 4
    assert meter.total_bytes == 256 * 4
    del kept
    assert meter.total_bytes == 256 * 4, "the view still holds it"
    del view
    assert meter.total_bytes == 0


def test_the_caching_allocator_reuses_and_rounds() -> None:
    allocator = CachingAllocator()
    allocator.change(1, 100)
    assert allocator.reserved_bytes == 2 * 2**20
    allocator.change(2, 15 * 2**20)
    assert allocator.reserved_bytes == 18 * 2**20, "rounded up to 2 MiB"
    allocator.change(2, 0)
    allocator.change(3, 14 * 2**20)
    assert allocator.reserved_bytes == 18 * 2**20, "taken from what is free"
    assert cuda_block_bytes(1) == 512


def test_records_survive_json() -> None:
    record = MemoryPrediction(5, "backward", {"a": 1, "b": 4}, {"load": 1, "backward": 5}, notes=("x",))
    read = MemoryPrediction.from_json(json.loads(json.dumps(record.to_json())))
    assert read == record and list(read.parts) == ["b", "a"]
