"""Which cells are skipped because another one did not fit, and which might fit all the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sweeper.config.options import with_leaves
from sweeper.contract.config import BatchConfig, Config, TrainConfig
from sweeper.contract.trial import Outcome
from sweeper.preflight.dominance import Dominance
from tests.support.recorded import record_of

BASE = Config(batch=BatchConfig(4, 16, 4), train=TrainConfig(steps=20))


def skipped(proof: dict[str, Any], cell: dict[str, Any], devices: str | None = None) -> bool:
    """Whether the cell is skipped once the other one has run out of memory."""
    dominance = Dominance()
    record = record_of(0, with_leaves(BASE, proof), outcome=Outcome.OUT_OF_MEMORY, load_time_s=1.0, steps=0)
    dominance.on_end(dataclasses.replace(record, spec=dataclasses.replace(record.spec, devices=devices)))
    verdict = dominance.verdict(with_leaves(BASE, cell))
    assert verdict is None or verdict.outcome is Outcome.PREDICTED_OOM
    return verdict is not None


NEEDS_AS_MUCH: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"batch.micro": 8, "batch.accumulation": 2}),
    ({}, {"lora.r": 16}),
    ({"checkpointing": True}, {}),
    ({"optim": "adamw_bnb_8bit"}, {"optim": "adamw_torch"}),
    ({"data.completion_only_loss": False}, {"data.completion_only_loss": False, "data.max_length": 256}),
    (
        {"train.token_budget": 500},
        {"train.token_budget": 500, "batch.effective": 32, "batch.accumulation": 8},
    ),
]
MIGHT_FIT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"batch.micro": 2, "batch.accumulation": 8}),
    ({}, {"checkpointing": True}),
    ({}, {"quantization": "nf4"}),
    ({}, {"optim": "adafactor"}),
    ({}, {"data.max_length": 256}),
    ({"train.token_budget": 9}, {"train.token_budget": 9, "batch.effective": 24, "batch.accumulation": 6}),
    *(
        ({"optim": "adafactor", "adapter": "full", "model.dtype": dtype},
         {"optim": "adamw_torch", "adapter": "full", "model.dtype": dtype})
        for dtype in ("bfloat16", "float16")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("proof", "cell"), NEEDS_AS_MUCH, ids=str)
def test_a_cell_that_needs_at_least_as_much_is_skipped(proof: dict[str, Any], cell: dict[str, Any]) -> None:
    assert skipped(proof, cell)


@pytest.mark.parametrize(("proof", "cell"), MIGHT_FIT, ids=str)
def test_a_cell_that_might_fit_is_run(proof: dict[str, Any], cell: dict[str, Any]) -> None:
    assert not skipped(proof, cell)


def test_what_ran_out_beside_another_process_proves_nothing() -> None:
    ignored = {"trial.require_idle_device": "ignore"}
    assert not skipped(ignored, {**ignored, "lora.r": 16}, devices="0")
    assert skipped({}, {"lora.r": 16}, devices="0")
