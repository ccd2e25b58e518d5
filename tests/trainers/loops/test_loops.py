"""Both loops do the same work, and accumulation equals the large batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM, TrainingArguments

from sweeper.contract.config import BatchConfig, Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import TrialResult
from trainers.data import batches
from trainers.data.batches import batch_sizes, order, plan
from trainers.data.prepared import PreparedData, prepare_data
from trainers.loops import Parts, accelerate
from trainers.methods import precision
from trainers.methods.optimizers import build_optimizer
from trainers.model.source import load_tokenizer
from trainers.setup import build_model, portable_arguments, training_arguments

RunTrial = Callable[..., tuple[TrialResult, TrialFolder]]
MakeConfig = Callable[..., Config]


def steps(folder: TrialFolder) -> list[dict[str, Any]]:
    lines = [line for line in folder.read_progress() if line.event == "step"]
    return [{"loss": line.loss, "norm": line.grad_norm, "rate": line.learning_rate} for line in lines]


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"batch.micro": 2, "batch.effective": 8, "train.weight_decay": 0.1, "adapter": "full"},
        {"data.packing": True, "optim": "adafactor", "train.lr_scheduler_type": "cosine"},
        {"lora.dropout": 0.2},
        {"train.steps": 16},  # more than one epoch
    ],
)
def test_loops_show_the_same_loss_norm_and_learning_rate(
    overrides: dict[str, Any], run_trial: RunTrial
) -> None:
    ours, our_folder = run_trial(**overrides)
    theirs, their_folder = run_trial(trainer="hf", **overrides)
    for mine, other in zip(steps(our_folder), steps(their_folder), strict=True):
        assert mine == pytest.approx(other, rel=1e-4)
    assert ours.measurements.tokens == theirs.measurements.tokens
    assert ours.measurements.eval_loss == pytest.approx(theirs.measurements.eval_loss, rel=1e-5)


def test_micro_batch_changes_neither_order_nor_loss(run_trial: RunTrial) -> None:
    _, large = run_trial(**{"batch.micro": 16})
    _, small = run_trial(**{"batch.micro": 1, "batch.effective": 16})
    for one, other in zip(steps(large), steps(small), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_loops_do_equal_work_for_a_class_that_averages_each_batch_by_itself(
    run_trial: RunTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer would then average micro batches, however many targets they have: Gemma 3n, Gemma 4."""
    monkeypatch.setattr(LlamaForCausalLM, "accepts_loss_kwargs", False, raising=False)
    batch = {"batch.micro": 1, "batch.effective": 8, "trial.warmup_steps": 1, "train.steps": 3}
    _, ours = run_trial(**batch)
    _, theirs = run_trial(trainer="hf", **batch)
    for mine, other in zip(steps(ours), steps(theirs), strict=True):
        assert mine == pytest.approx(other, rel=1e-6)


@pytest.fixture
def prepared(make_config: MakeConfig, cache_dir: Path) -> PreparedData:
    config = make_config()
    return prepare_data(config, load_tokenizer(config.model), cache_dir)


def _gradients(config: Config, data: PreparedData) -> list[torch.Tensor]:
    from accelerate import Accelerator

    torch.manual_seed(0)
    model: nn.Module = build_model(config, precision.device(config))
    work = plan(config, data.train)
    arguments = training_arguments(config, work.steps, Path("unused"))
    accelerator = Accelerator(cpu=True)  # after the arguments, which reset its state
    parts = Parts(config, work, data, model, arguments, build_optimizer(model, arguments))
    batches = accelerate._on_device(parts, torch.device("cpu"))
    accelerate._accumulate(accelerator, model, batches, work.micro_targets[0])
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("micro", [1, 2, 8])
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_accumulated_gradients_equal_those_of_the_large_batch(
    micro: int, adapter: str, make_config: MakeConfig, prepared: PreparedData
) -> None:
    large = _gradients(make_config(adapter=adapter, **{"batch.micro": 16}), prepared)
    small = _gradients(
        make_config(adapter=adapter, **{"batch.micro": micro, "batch.effective": 16}), prepared
    )
    assert len(large) == len(small) > 0
    for one, other in zip(large, small, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_micro_batches_have_different_numbers_of_targets(
    make_config: MakeConfig, prepared: PreparedData
) -> None:
    """Else the tests above would not tell a mean of means from the mean over tokens."""
    targets = plan(make_config(**{"batch.micro": 1, "batch.effective": 16}), prepared.train).micro_targets[0]
    assert len(set(targets)) > 1


def test_order_is_a_new_permutation_per_epoch() -> None:
    indices = order(seed=0, examples=10, count=25)
    first, second = indices[:10], indices[10:20]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert order(seed=1, examples=10, count=10) != first


def test_order_does_not_depend_on_how_much_is_asked_for() -> None:
    assert order(0, 10, 12) == order(0, 10, 25)[:12]


def test_plan_counts_padding_to_the_longest_of_each_micro_batch(
    make_config: MakeConfig, prepared: PreparedData
) -> None:
    padded = plan(make_config(**{"batch.micro": 16}), prepared.train)
    unpadded = plan(make_config(**{"batch.micro": 1, "batch.effective": 16}), prepared.train)
    longest = max(prepared.train.lengths[padded.indices[:16]])
    assert padded.padded_tokens[0] == 16 * longest
    assert unpadded.padded_tokens == unpadded.tokens == padded.tokens


@pytest.mark.parametrize("budget", [1, 3000, 40_000])
def test_token_budget_ends_with_the_step_that_reaches_it_in_any_epoch(
    budget: int, make_config: MakeConfig, prepared: PreparedData
) -> None:
    tokens = plan(make_config(**{"train.steps": None, "train.token_budget": budget}), prepared.train).tokens
    assert sum(tokens[:-1]) < budget <= sum(tokens)


def test_token_budget_is_not_laid_out_by_the_shortest_example(
    make_config: MakeConfig, prepared: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = np.array([1, *prepared.train.lengths[1:]])
    monkeypatch.setattr(prepared.train, "lengths", lengths)
    config = make_config(**{"train.steps": None, "train.token_budget": 10**12})  # 10**12 indices at once
    assert batches._step_count(config, prepared.train, 16) == pytest.approx(10**12 / lengths.mean() / 16)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_training_arguments_of_a_model_ask_for_the_same_training(
    checkpointing: bool, make_config: MakeConfig
) -> None:
    config = make_config(checkpointing=checkpointing, precision="bf16")
    written = json.loads(json.dumps(portable_arguments(config, steps=7)))
    loaded = TrainingArguments(**written)
    assert loaded.gradient_checkpointing is checkpointing
    expected = {"use_reentrant": False} if checkpointing else None
    assert loaded.gradient_checkpointing_kwargs == expected
    assert (loaded.max_steps, loaded.bf16, loaded.gradient_accumulation_steps) == (7, True, 4)
    assert not written.keys() & {"report_to", "save_strategy", "eval_strategy", "disable_tqdm"}
    ours = training_arguments(config, 7, Path("unused"))
    assert not ours.gradient_checkpointing, "trainers.model enables it: a Trainer must not do so again"


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (BatchConfig(), (4, 4)),
        (BatchConfig(micro=2, accumulation=3), (2, 3)),
        (BatchConfig(micro=8, effective=32), (8, 4)),
        (BatchConfig(micro=8, effective=32, accumulation=4), (8, 4)),
    ],
)
def test_batch_sizes_are_resolved(batch: BatchConfig, expected: tuple[int, int]) -> None:
    sizes = batch_sizes(batch)
    assert (sizes.micro, sizes.accumulation) == expected


@pytest.mark.parametrize(
    "batch",
    [BatchConfig(micro=3, effective=16), BatchConfig(micro=4, effective=16, accumulation=3), BatchConfig(32)],
)
def test_batch_sizes_that_do_not_fit_are_refused(batch: BatchConfig) -> None:
    with pytest.raises(ValueError, match=r"batch\.micro"):
        batch_sizes(batch)
