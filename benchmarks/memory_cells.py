"""The cells on which `benchmarks.memory_cpu` holds the prediction against real runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

STEPS = {
    "train.steps": 2,
    "trial.warmup_steps": 1,
    "data.max_train_examples": 64,
    "data.max_eval_examples": 8,
    "evaluate.general": 4,
}
MICRO = {"batch.micro": 4, "batch.effective": 8}


def cells() -> Iterator[dict[str, Any]]:
    """The grid: methods crossed where they interact, and each further option once or twice."""
    loops = itertools.cycle(("accelerate", "hf"))
    for storage, precision, recompute in itertools.product(
        ("none", "int8", "nf4"), ("fp32", "bf16", "bf16_pure"), (False, True)
    ):
        yield {
            "quantization": storage,
            "precision": precision,
            "checkpointing": recompute,
            "trainer": next(loops),
        }
    next(loops)
    for precision, recompute, optim in itertools.product(
        ("fp32", "bf16", "bf16_pure"), (False, True), ("adamw_torch", "adafactor", "adamw_8bit")
    ):
        full = {"adapter": "full", "precision": precision, "checkpointing": recompute, "optim": optim}
        yield {**full, "trainer": next(loops)}
    for micro, trainer in itertools.product((1, 2, 8), ("accelerate", "hf")):
        yield {"batch.micro": micro, "trainer": trainer}
        yield {"batch.micro": micro, "precision": "bf16", "checkpointing": True, "trainer": trainer}
    for attention, precision in itertools.product(("eager",), ("fp32", "bf16", "bf16_pure")):
        yield {"attention": attention, "precision": precision}
        yield {"attention": attention, "precision": precision, "checkpointing": True, "trainer": "hf"}
    yield from further()


def further() -> Iterator[dict[str, Any]]:
    """Options that the crossings leave out."""
    for changes in (
        {"lora.use_dora": True},
        {"lora.dropout": 0.1},
        {"lora.target_modules": "all-linear", "lora.r": 64},
        {"lora.target_modules": "all-linear", "lora.r": 64, "optim": "adamw_8bit"},
        {"data.packing": True},
        {"data.packing": True, "precision": "bf16", "quantization": "nf4"},
        {"adapter": "full", "optim": "sgd"},
        {"adapter": "full", "optim": "lion_8bit", "trainer": "hf"},
        {"adapter": "full", "optim": "adamw_torch_fused"},
        {"adapter": "full", "batch.effective": 4},
        {"model.dtype": "bfloat16", "precision": "bf16"},
        {"data.max_length": 64},
    ):
        yield dict(changes)


def configuration(model: str, changes: dict[str, Any]) -> Any:
    """The resolved configuration of one cell."""
    from sweeper.config.validate import resolved
    from sweeper.contract.config import Config, from_dict

    values = Config().to_dict()
    for key, value in {**STEPS, **MICRO, "trial.device": "cpu", "model.path": model, **changes}.items():
        *groups, name = key.split(".")
        place = values
        for group in groups:
            place = place[group]
        assert name in place, key
        place[name] = value
    return resolved(from_dict(values))


SHAPES = {"100m": (768, 2688, 12, 12), "30m": (512, 1536, 8, 8)}
"""Width, inner width, layers and heads of the models of random weights."""


def make_model(shape: str, folder: Path) -> str:
    """A Llama of about as many random parameters as its name says, with the embedded tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    from trainers import embedded

    tokenizer = AutoTokenizer.from_pretrained(embedded.model_path())
    set_seed(0)
    width, inner, layers, heads = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def search_cells() -> Iterator[tuple[dict[str, Any], Any]]:
    """The 256 cells of `benchmarks.search_record`, with their configurations."""
    from benchmarks.search_record import cells as recorded

    for cell in recorded():
        config = cell.config
        train = replace(config.train, steps=STEPS["train.steps"])
        trial = replace(config.trial, device="cpu", warmup_steps=STEPS["trial.warmup_steps"])
        yield (
            dict(pair.split("=", 1) for pair in cell.label.split()),
            replace(config, train=train, trial=trial),
        )


def label(changes: dict[str, Any]) -> str:
    """The cell as a user would type it."""
    return " ".join(f"{key}={value}" for key, value in changes.items())
