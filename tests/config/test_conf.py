"""Every option of every group in conf/ runs a trial, or is refused with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import datasets
import pytest
import torch
from transformers.training_args import OptimizerNames

from sweeper.config.hydra import OPTIMIZERS, conf_dir
from sweeper.contract.trial import Outcome
from tests.support.commands import SHORT, sweeper, trials
from tests.support.readme import MAIN_JOB, commands
from tests.support.stores import with_store

GRIDS = (
    ("precision=fp32,bf16,bf16_pure", "attention=auto,eager", "checkpointing=off"),
    ("trainer=accelerate,hf", "adapter=lora,full"),
    ("optim=adamw_fused,paged_bnb8", "attention=sdpa", "data=transport", "model=tiny"),
)
NEEDS_CUDA = ("precision=fp16", "precision=tf32", "attention=flash_attention_2")
NEEDS_A_PACKAGE = ("attention=flash_attention_3", "attention=flash_attention_4")
ELSEWHERE = {"data=hf", "space=paper"}
"""Tested below with a data set of its own, and in test_strategies.py."""


def options(arguments: Iterable[str]) -> set[str]:
    pairs = (argument.split("=") for argument in arguments if "=" in argument)
    return {f"{group}={option}" for group, listed in pairs for option in listed.split(",")}


def test_no_option_is_left_out() -> None:
    folders = [folder for folder in conf_dir().iterdir() if folder.is_dir()]
    there = {f"{folder.name}={file.stem}" for folder in folders for file in folder.glob("*.yaml")}
    in_readme = options(word for command in (*commands(), MAIN_JOB) for word in command.split())
    tested = set().union(*map(options, GRIDS), NEEDS_CUDA, NEEDS_A_PACKAGE, ELSEWHERE)
    assert there <= tested | in_readme, "a test must run it, here or as a command of the README"


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS, ids=" ".join)
def test_every_option_runs(tmp_path: Path, grid: tuple[str, ...]) -> None:
    done = sweeper(with_store(tmp_path), "-m", *grid, "batch.effective=4", "data.max_length=64", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {record.label: record.result and record.result.outcome for record in trials(tmp_path)}
    assert set(outcomes.values()) == {Outcome.COMPLETED}, outcomes


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is refused without CUDA")
def test_options_that_need_cuda_are_refused_together(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "-m", "precision=fp16,tf32", "attention=flash_attention_2")
    assert done.returncode == 2, done.stdout
    assert "precision=fp16 needs CUDA" in done.stderr
    assert "precision=tf32 needs a CUDA device" in done.stderr
    assert "flash_attention_2 needs a CUDA device" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is refused without CUDA")
def test_kernels_are_refused_by_the_name_of_their_package(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "-m", ",".join(NEEDS_A_PACKAGE).replace(",attention=", ","), "precision=bf16")
    assert done.returncode == 2, done.stdout
    assert "needs the package flash-attn-3" in done.stderr and "pip install flash-attn-4" in done.stderr


def test_a_data_set_in_the_layout_of_the_hub_trains(tmp_path: Path) -> None:
    rows = [{"text": f"Track {number} is clear, and the train may go."} for number in range(40)]
    folder = tmp_path / "clear-tracks"
    folder.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    done = sweeper(with_store(tmp_path), "data=hf", f"data.path={folder}", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = trials(tmp_path)
    assert record.result is not None and record.result.measurements.eval_loss is not None


def test_every_optimizer_of_transformers_can_be_named() -> None:
    own = {name.value for name in OptimizerNames}
    in_conf = {
        file.read_text().split("optim:")[1].split()[0] for file in (conf_dir() / "optim").glob("*.yaml")
    }
    assert own == {*OPTIMIZERS, *in_conf}
