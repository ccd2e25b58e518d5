"""What only a GPU can show: CUDA in the forks of a server that never uses it, and trials measured there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.contract.trial import Outcome
from sweeper.launchers import local
from sweeper.machine import has_amd_gpu, has_nvidia_gpu
from tests.support.commands import SHORT, sweeper, trials

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (has_nvidia_gpu() or has_amd_gpu()), reason="no GPU"),
]

FORKS = """
import torch
from trainers import devices, warm

warm._preload()

def product():
    return {"sum": float(torch.ones(64, 64, device="cuda").mm(torch.ones(64, 64, device="cuda")).sum())}

print(devices.ask_children([product]), devices.ask_children([product, product]))
print(torch.cuda.is_initialized())
"""


def test_forks_of_the_server_use_cuda_one_after_the_other_and_beside_each_other() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        capture_output=True,
        text=True,
        timeout=300,
        env=local.trial_environment(),
        check=False,
    )
    one = "{'sum': 262144.0}"
    assert done.stdout.splitlines() == [f"[{one}] [{one}, {one}]", "False"], done.stderr


def test_the_verb_tells_the_gpu_and_measures_it(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "machine", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] and all(item["error"] is None for item in found["devices"])
    rates = found["ceilings"][found["device"]]
    assert rates["bf16"] > 1e12 and rates["copy"] > 1e10, "slower than any GPU that torch supports"


def test_trials_are_measured_on_the_gpu(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "-m", "quantization=none,int8,nf4", "precision=fp16", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    for record in trials(tmp_path):
        assert record.result is not None and record.result.outcome is Outcome.COMPLETED, record.result
        assert record.result.environment["device"] and record.result.environment["device_memory_bytes"]
        assert record.metric("peak_memory_allocated_bytes") and record.metric("mfu")
    again = sweeper(tmp_path, "-m", "quantization=none,int8,nf4", "precision=fp16", *SHORT)
    assert "3 cells were measured before" in again.stdout
