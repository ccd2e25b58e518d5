"""Rows, a tokenizer and a model that tests share."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    set_seed,
)

VOCABULARY = 512
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {"num_key_value_heads": 2, "num_experts_per_tok": 2}
SMALL_MODELS: dict[str, PretrainedConfig] = {
    "llama_tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "gpt2": GPT2Config(**SIZES),
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "phi3": Phi3Config(**SIZES, num_key_value_heads=2),
    "mixtral": MixtralConfig(**SIZES, **EXPERTS, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS, num_experts=4, moe_intermediate_size=16),
}
"""Architectures whose checkpoints differ in how weights are named, tied, packed or stacked."""
QUICK = {"data.max_eval_examples": 8, "evaluate.general": 4}
"""Overrides that make the evaluations of a trial take less time than its training."""


def gsm8k_rows(count: int) -> list[dict[str, str]]:
    """Rows in the form of GSM8K, of different lengths."""
    source = random.Random(0)
    names = ("Ann", "Bartholomew", "Chi")
    rows = []
    for _ in range(count):
        name, first, second = source.choice(names), source.randint(1, 50), source.randint(1, 50)
        rest = " The apples are red." * source.randint(0, 3)
        question = f"{name} has {first} apples and buys {second} more.{rest} How many has {name} now?"
        rows.append(
            {"question": question, "answer": f"{first} + {second} = {first + second}\n#### {first + second}"}
        )
    return rows


def tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer."""
    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rules.train_from_iterator((text for row in gsm8k_rows(50) for text in row.values()), trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=rules, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    made.chat_template = chat_template
    return made


def write_gsm8k(path: Path, count: int) -> None:
    """GSM8K-shaped rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in gsm8k_rows(count)))


def save_llama(folder: Path) -> None:
    """Save a Llama of 0.4 M random parameters and its byte-level tokenizer."""
    tokenizer().save_pretrained(folder)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def save_model(config: PretrainedConfig, folder: Path) -> None:
    """Save a model of random weights and the byte-level tokenizer."""
    tokenizer().save_pretrained(folder)
    set_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
