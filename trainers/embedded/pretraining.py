"""Pre-trains the tiny model: next-token prediction on the packed general corpus, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, set_seed

POSITIONS = 512
SEED = 0
THREADS = 2
"""Fixed, since the number of threads changes the order of sums and so the weights."""
SEQUENCE = 256
"""Tokens per sequence while pre-training."""
BATCH = 16
STEPS = 300
WARMUP_STEPS = 20
LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.1
REPORT_EVERY = 25


def new_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama of 3.2 M parameters.

    Width 512 and as many key-value heads as heads make the query and value projections 512 by 512: a
    LoRA matrix of rank 8 then has 4096 elements, the fewest of which bitsandbytes keeps 8-bit state
    (`min_8bit_size`). All widths are multiples of 64, the block of 4-bit quantisation.
    """
    set_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def packed(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> torch.Tensor:
    """All texts as one stream in rows of `length` tokens; the rest that fills no row is dropped."""
    end = tokenizer.eos_token_id
    stream = [token for ids in tokenizer(list(texts))["input_ids"] for token in (*ids, end)]
    rows = len(stream) // length
    return torch.tensor(stream[: rows * length]).view(rows, length)


def pretrain(model: LlamaForCausalLM, rows: torch.Tensor, report: Callable[[str], None]) -> None:
    """Train on `rows` in a seeded order, again in a new order when they are used up; `report` hears of
    the progress."""
    torch.set_num_threads(THREADS)
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _learning_rate_factor)
    order = _order(len(rows), generator)
    model.train()
    for step in range(STEPS):
        batch = rows[order[step * BATCH : (step + 1) * BATCH]]
        # three times as fast as float32 on a CPU with AMX; the result is stored as bfloat16 anyway
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % REPORT_EVERY == 0:
            report(f"step {step + 1} of {STEPS}: loss {loss.item():.3f}")


def _learning_rate_factor(step: int) -> float:
    """Linear rise, then a cosine fall to 0."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)))


def _order(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Row numbers for all steps: each row once before any comes again."""
    rounds = math.ceil(STEPS * BATCH / rows)
    return torch.cat([torch.randperm(rows, generator=generator) for _ in range(rounds)])


@torch.no_grad()
def corpus_loss(model: LlamaForCausalLM, rows: torch.Tensor) -> float:
    """Mean loss per token in nats over packed rows, all of equal length."""
    model.eval()
    losses = [float(model(input_ids=row, labels=row).loss) for row in rows.unsqueeze(1)]
    return sum(losses) / len(losses)
