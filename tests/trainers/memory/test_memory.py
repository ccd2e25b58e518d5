"""The prediction of memory: it agrees with the storages of real runs, and every architecture has one."""

from __future__ import annotations

import json
import shutil
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
from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

from sweeper.config.validate import resolved
from sweeper.contract.config import Config
from sweeper.contract.prediction import MemoryPrediction
from trainers.memory import __main__ as server
from trainers.memory import context
from trainers.memory.allocator import CachingAllocator, cuda_block_bytes
from trainers.memory.counted import count
from trainers.memory.fakes import fake_base, fake_tensors
from trainers.memory.lengths import batches_of
from trainers.memory.predict import PredictionError, predict
from trainers.memory.steps import BatchShape
from trainers.memory.storages import StorageMeter
from trainers.meters.work import step_work
from trainers.model.source import architectures, load_config

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


def test_memory_inside_of_an_operation_is_reserved_too() -> None:
    allocator = CachingAllocator()
    meter = StorageMeter(inner_bytes=lambda *_: 40 * 2**20, on_change=allocator.change)
    with meter, meter.during("work", "things"):
        torch.zeros(256)
    assert allocator.peak_reserved_bytes >= meter.peaks["work"].total_bytes > 40 * 2**20


WIDER: dict[str, Any] = {**WIDE, "vocab_size": 4096}
"""An embedding large enough for paged and 8-bit state."""


def test_8_bit_state_is_there_once_and_paged_state_lies_outside(make: MakeConfig, tmp_path: Path) -> None:
    def predicted(optim: str) -> MemoryPrediction:
        config = make(**{"model.path": str(tmp_path), "adapter": "full", "optim": optim})
        return predict(config, [at(8)], on_cuda=True)

    LlamaConfig(**WIDER).save_pretrained(tmp_path)
    plain, paged = predicted("adamw_8bit"), predicted("paged_adamw_8bit")
    weights, state = plain.parts["weights float32"], plain.parts["optimizer state"]
    assert plain.phases["evaluation"] < weights + 2 * state, "one copy, and a small forward pass"
    assert plain.paged_bytes is None
    assert paged.paged_bytes and paged.paged_bytes >= 2 * 4096 * 32, "two moments of the embedding"
    assert paged.peak_bytes == pytest.approx(plain.peak_bytes - paged.paged_bytes, rel=0.02)
    assert paged.reserved_bytes and plain.reserved_bytes and paged.reserved_bytes <= plain.reserved_bytes


def test_an_evaluation_batch_may_be_larger_than_a_micro_batch(make: MakeConfig) -> None:
    config = make(**{"evaluate.batch": 32, "batch.micro": 1})
    found = predict(config, [at(32)], on_cuda=False)
    assert found.phase == "evaluation" and found.phases["evaluation"] > found.phases["backward"]


def test_general_texts_are_evaluated_too(make: MakeConfig, tmp_path: Path, cache_dir: Path) -> None:
    texts = tmp_path / "general.txt"
    texts.write_text("word " * 900 + "\n" + "word\n" * 3)
    options = {"data.general_path": str(texts), "data.max_length": 512, "batch.micro": 2}
    plain = batches_of(make(**{**options, "evaluate.general": 0}), cache_dir)
    general = batches_of(make(**options), cache_dir)
    assert general.shapes[0].eval_length == 512 > plain.shapes[0].eval_length
    assert general.shapes[0].eval_sequences == 2 and general.shapes[0].eval_padded
    assert general.general_tokens > plain.general_tokens == 0
    asked = batches_of(make(**{**options, "evaluate.generate": 4}), cache_dir)
    assert any("evaluate.generate" in note for note in asked.notes)


def test_data_is_looked_at_where_a_tokenizer_is_and_weights_are_not(
    make: MakeConfig, tiny_model: Path, tmp_path: Path, cache_dir: Path
) -> None:
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    batches = batches_of(make(**{"model.path": str(tmp_path), "data.max_length": 200}), cache_dir)
    assert batches.shapes[0].length < 200 and not batches.notes


def test_without_data_the_work_is_what_was_asked_for(make: MakeConfig, cache_dir: Path) -> None:
    options = {"model.path": "arch:qwen2.5-0.5b", "data.max_length": 10, "batch.effective": 16}
    budget = {"train.steps": None, "train.token_budget": 1000, "data.max_eval_examples": 5}
    batches = batches_of(make(**options, **budget), cache_dir)
    assert batches.steps == 7 and batches.evaluation_tokens == 50


def test_an_attention_that_the_class_lacks_is_named_with_a_remedy(make: MakeConfig, tmp_path: Path) -> None:
    if Gemma2PreTrainedModel._supports_sdpa:
        pytest.skip("this version of transformers has the kernel for it")
    ARCHITECTURES["gemma2"].save_pretrained(tmp_path)
    config = make(**{"model.path": str(tmp_path)})
    with pytest.raises(PredictionError, match=r"while the model was built.*attention=sdpa.*attention=eager"):
        predict(config, [at(8)], on_cuda=True)
    flash = make(**{"model.path": str(tmp_path), "attention": "flash_attention_2", "precision": "bf16"})
    with fake_tensors():
        assert fake_base(flash).config._attn_implementation == "sdpa", "the fused kernel stands in"


def test_both_stacks_and_the_cross_attention_of_t5_count(make: MakeConfig, tmp_path: Path) -> None:
    ARCHITECTURES["t5"].save_pretrained(tmp_path)
    config = make(**{"model.path": str(tmp_path), "attention": "eager"})
    with fake_tensors():
        model = fake_base(config)
    optimizer = torch.optim.SGD(model.parameters())
    short, long = (step_work(model, optimizer, config, 1, length) for length in (8, 16))
    attended = 2 * (2 + 2 * 2) * 16
    assert long["forward_flops"] - short["forward_flops"] == 4 * 8 * attended, "2 heads of 6 times d_kv=16"
    moved = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    assert short["optimizer_bytes"] == 3 * moved, "gradients read, weights read and written, no state"


def test_what_one_cell_breaks_leaves_the_others_their_answers(
    make: MakeConfig, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("of a library")

    monkeypatch.setattr(server, "batches_of", broken)
    assert server.answer(make(), cache_dir) == {"error": "KeyError: 'of a library'"}


def test_a_devices_context_is_probed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes = iter([None, 300, 400])
    monkeypatch.setattr(context, "_probed", lambda: next(probes))
    file = tmp_path / "cache" / context.FILE
    assert context.remembered(file, "A100") is None and not file.exists(), "a failed probe is tried again"
    assert context.remembered(file, "A100") == context.remembered(file, "A100") == 300
    assert context.remembered(file, "H100") == 400


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_no_context_without_a_device(tmp_path: Path) -> None:
    assert context.context_bytes(tmp_path) is None


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
    with fake_tensors():
        model = fake_base(make(**{"model.path": f"arch:{name}", "attention": "eager"}))
    assert sum(weight.numel() for weight in model.parameters()) == parameters


def test_the_recipe_that_people_use_holds_a_7b_base_in_16_bit(make: MakeConfig) -> None:
    """13.5 GB of bfloat16 weights and what one checkpointed sequence needs; nothing of it was fitted."""
    asked = {"model.path": "arch:llama-2-7b", "precision": "bf16", "checkpointing": True, "batch.micro": 1}
    found = predict(make(**asked, **{"batch.effective": 1}), [at(1024)], on_cuda=True)
    assert 6_738_415_616 * 2 < found.peak_bytes < 15 * 2**30
    assert found.parts["weights bfloat16"] > 13 * 10**9 and "weights float32" not in found.parts


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
