"""Peak memory, phases and speed are what they say."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sweeper.contract.speed import median_rate, quartiles
from tests.support.sources import ROOT
from trainers.loops.recorder import read_stop
from trainers.meters.phases import Meters
from trainers.meters.readers import release_freed, resident_bytes

MIB = 2**20
CPU = torch.device("cpu")

BLOCKS_AMONG_SMALL_ONES = """
import torch
from trainers.meters.readers import keep_large_blocks_apart, resident_bytes
MIB = 2**20
block = torch.ones(30 * MIB, dtype=torch.uint8)
del block  # by itself glibc now takes smaller blocks from the heap
keep_large_blocks_apart()
pairs = [(torch.ones(8 * MIB, dtype=torch.uint8), bytes(2_000)) for _ in range(25)]
full = resident_bytes()
small = [each for _, each in pairs]
del pairs
print(full - resident_bytes())
"""
PEAK_OF_A_FORK = """
import os, torch, transformers, peft, datasets
from trainers.meters.phases import Meters
child = os.fork()
if child == 0:
    meters = Meters(torch.device("cpu"))
    with meters.phase("idle"):
        # code that the parent never ran: its pages must not count as growth
        torch.nn.functional.scaled_dot_product_attention(*torch.randn(3, 1, 2, 8, 16))
        torch.linalg.svd(torch.randn(16, 16))
    with meters.phase("full"):
        block = torch.ones({mib} * 2**20, dtype=torch.uint8)
        del block
    print(*(meters.phases[name].peak_bytes for name in ("idle", "full")), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_peak_of_a_forked_process_is_its_own_allocation() -> None:
    program = PEAK_OF_A_FORK.replace("{mib}", "300")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=ROOT,
    )
    idle, full = (int(word) / MIB for word in run.stdout.split())
    assert 0 <= idle < 10
    assert 295 < full < 310  # the kernel counts resident pages in batches per thread


def test_phase_peak_forgets_what_was_freed_before() -> None:
    meters = Meters(CPU)
    with meters.phase("load"):
        block = torch.ones(200 * MIB, dtype=torch.uint8)
        del block
    with meters.phase("train"):
        pass
    load, train = meters.phases["load"].peak_bytes, meters.phases["train"].peak_bytes
    assert load is not None and train is not None
    assert load - train > 190 * MIB
    assert meters.highest("peak_bytes") == load


def test_interrupted_phase_keeps_its_own_peak_and_time() -> None:
    meters = Meters(CPU)
    with meters.phase("train"):
        with meters.phase("eval"):
            block = torch.ones(200 * MIB, dtype=torch.uint8)
            del block
        small = torch.ones(20 * MIB, dtype=torch.uint8)
        del small
    train, evaluation = meters.phases["train"], meters.phases["eval"]
    assert train.peak_bytes is not None and evaluation.peak_bytes is not None
    assert evaluation.peak_bytes - train.peak_bytes > 150 * MIB
    assert train.seconds + evaluation.seconds <= meters.elapsed_s()


def test_checkpoints_are_left_out_of_the_highest_peak() -> None:
    meters = Meters(CPU)
    with meters.phase("train"), meters.phase("checkpoint"):
        block = torch.ones(200 * MIB, dtype=torch.uint8)
        del block
    assert (meters.phases["checkpoint"].peak_bytes or 0) > 190 * MIB
    assert meters.highest("peak_bytes") == meters.phases["train"].peak_bytes
    assert (meters.highest("peak_bytes") or 0) < 100 * MIB


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    blocks = [bytes(40_000) for _ in range(3000)]
    kept = blocks[-1]  # the end of the heap: glibc gives nothing back below it
    full = resident_bytes()
    del blocks
    release_freed()
    left = resident_bytes()
    assert kept and full is not None and left is not None and full - left > 80 * MIB


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_a_large_block_that_is_freed_leaves_nothing_resident_between_small_ones() -> None:
    """In a process of its own: the heap of one that ran other tests may have room for a large block."""
    run = subprocess.run(
        [sys.executable, "-c", BLOCKS_AMONG_SMALL_ONES],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    assert int(run.stdout) > 190 * MIB, "of 200 MiB"


def test_figures_of_cuda_are_unknown_on_cpu() -> None:
    meters = Meters(CPU)
    with meters.phase("train"):
        pass
    record = meters.phases["train"]
    assert (record.reserved_bytes, record.device_bytes, record.energy_j) == (None, None, None)


def test_quartiles_of_one_step_are_that_step() -> None:
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert quartiles([1.0, 2.0, 3.0]) == (1.5, 2.0, 2.5)


def test_rate_is_the_median_over_steps() -> None:
    assert median_rate([100, 100, 300], [1.0, 50.0, 2.0]) == 100.0


@pytest.mark.parametrize("content", ["", "{", '{"outcome": "completed"}'])
def test_stop_file_that_says_nothing_known_cancels(content: str, tmp_path: Path) -> None:
    path = tmp_path / "stop"
    path.write_text(content)
    ending = read_stop(path)
    assert ending is not None and ending.outcome == "cancelled"
