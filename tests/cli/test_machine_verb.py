"""`python -m sweeper machine`: what trials will see, and which methods run there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.contract.trial import Problem
from sweeper.machine import Device, Machine, is_known
from sweeper.preflight.methods import judge_methods
from tests.support.commands import sweeper

T4 = Machine((Device("0", "Tesla T4", (7, 5), 15 << 30),), cpu="test", build="cuda")


def why_not(machine: Machine) -> dict[str, str]:
    """The first reason of each method that does not run."""
    return {item.override: item.problems[0].rule for item in judge_methods(machine) if item.problems}


@pytest.mark.skipif(not is_known(), reason="a machine with a GPU")
def test_a_machine_without_a_gpu_is_told_without_one(tmp_path: Path) -> None:
    said = sweeper(tmp_path, "machine")
    assert said.returncode == 0 and "Trials run on cpu" in said.stdout, said.stderr
    assert "  quantization=nf4              runs here" in said.stdout
    assert "use precision=bf16 on CPU" in said.stdout and "GPU" not in said.stdout
    record = json.loads(sweeper(tmp_path, "machine", "--json").stdout)
    assert record["devices"] == [] and record["methods"]["precision=bf16"] == []
    assert record["methods"]["precision=fp16"][0]["remedy"] == "use precision=bf16 on CPU"
    assert not list(tmp_path.iterdir())


def test_a_word_that_it_does_not_know_is_a_mistake(tmp_path: Path) -> None:
    refused = sweeper(tmp_path, "machine", "lora.r=8")
    assert refused.returncode == 2 and "lora.r=8" in refused.stderr


def test_methods_are_judged_by_the_gpu_that_is_there() -> None:
    found = why_not(T4)
    assert "capability 8.0" in found["precision=bf16"] and "precision=fp16" not in found
    assert "flash-attn" in found["attention=flash_attention_2"]
    others = {name for name in found if "flash_attention" not in name}
    assert others == {"precision=bf16", "precision=bf16_pure", "precision=tf32"}


def test_methods_are_judged_on_the_cpu_where_no_gpu_can_be_used() -> None:
    trouble = Problem("torch is built without CUDA", "trial.device", "auto", "set trial.device=cpu")
    found = why_not(Machine(cpu="test", trouble=trouble))
    assert "precision=fp16" in found and "precision=bf16" not in found and "adapter=lora" not in found
