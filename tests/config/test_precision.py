"""Which arithmetic runs where, and in which type a base is held under it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sweeper.config.rules import check
from sweeper.contract.config import Config, ModelConfig, TrialConfig
from sweeper.machine import Device, Machine

AMPERE = Machine((Device("0", "NVIDIA A100-SXM4-80GB", (8, 0)),), cpu="test")
TURING = Machine((Device("0", "Tesla T4", (7, 5)),), cpu="test")
CPU = Machine(cpu="test")


def config(precision: Any, dtype: Any = "auto", adapter: Any = "lora") -> Config:
    return dataclasses.replace(
        Config(), precision=precision, model=ModelConfig(dtype=dtype), adapter=adapter, trial=TrialConfig()
    )


@pytest.mark.parametrize(
    ("asked", "held", "computed"),
    [
        (("fp32",), "float32", "float32"),
        (("tf32",), "float32", "float32"),
        (("bf16",), "bfloat16", "bfloat16"),
        (("fp16",), "float16", "float16"),
        (("bf16_pure",), "bfloat16", "bfloat16"),
        (("bf16", "float32"), "float32", "bfloat16"),
        (("fp32", "bfloat16"), "bfloat16", "bfloat16"),
        (("bf16", "auto", "full"), "float32", "bfloat16"),
        (("bf16_pure", "auto", "full"), "bfloat16", "bfloat16"),
    ],
)
def test_a_frozen_base_is_held_as_it_is_computed(asked: tuple[Any, ...], held: str, computed: str) -> None:
    assert (config(*asked).held_dtype, config(*asked).compute_dtype) == (held, computed)


@pytest.mark.parametrize(
    ("machine", "asked", "rule"),
    [
        (TURING, ("bf16",), "bfloat16 needs compute capability 8.0"),
        (TURING, ("bf16_pure",), "bfloat16 needs compute capability 8.0"),
        (TURING, ("tf32",), "precision=tf32 needs a CUDA device of compute capability 8.0"),
        (CPU, ("tf32",), "precision=tf32 needs a CUDA device"),
        (CPU, ("fp16",), "precision=fp16 needs CUDA"),
        (AMPERE, ("fp16", "float16", "full"), "unscaled in float32"),
    ],
)
def test_arithmetic_that_cannot_run_is_refused_with_its_reason(
    machine: Machine, asked: tuple[Any, ...], rule: str
) -> None:
    (problem,) = check(config(*asked), machine)
    assert rule in problem.rule and problem.remedy


@pytest.mark.parametrize(
    ("machine", "asked"),
    [
        (TURING, ("fp16",)),
        (TURING, ("fp16", "float16")),
        (AMPERE, ("tf32",)),
        (AMPERE, ("bf16",)),
        (CPU, ("bf16",)),
    ],
)
def test_what_people_run_there_is_allowed(machine: Machine, asked: tuple[Any, ...]) -> None:
    assert check(config(*asked), machine) == []
