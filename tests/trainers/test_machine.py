"""What trials will see is told by torch, GPU by GPU, each in a process that sees nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import torch

from sweeper.launchers import local

FAKES = """
import json, os, sys, types
import torch
from trainers import machine

# name, capability, GiB, what the runtime says when it computes there
GPUS = {
    "0": ("NVIDIA H100 80GB HBM3", (9, 0), 79, None),
    "1": ("NVIDIA GeForce GT 1030", (6, 1), 2, "CUDA error: no kernel image is available for execution"),
    "2": ("NVIDIA A100-SXM4-40GB", (8, 0), 39, "CUDA-capable device(s) is/are busy or unavailable"),
    "GPU-8932f937": ("NVIDIA H100 80GB HBM3", (9, 0), 79, None),
    "MIG-5f3e": ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", (8, 0), 19, None),
    "3": ("dies", (8, 0), 1, None),
}

def seen():
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ["0", "1", "2", "3"] if listed is None else [name for name in listed.split(",") if name in GPUS]

def first():
    return GPUS[seen()[0]]

def init():
    if os.environ.get("BROKEN"):
        raise RuntimeError(os.environ["BROKEN"] + chr(10) + "second line")
    if first()[0] == "dies":
        os._exit(1)

def properties(_):
    name, (major, minor), gib, _ = first()
    return types.SimpleNamespace(name=name, major=major, minor=minor, total_memory=gib << 30, uuid="aa")

def ones(*_, **__):
    if first()[3]:
        raise torch.AcceleratorError(first()[3] + chr(10) + "Compile with TORCH_USE_CUDA_DSA")
    return types.SimpleNamespace(add_=lambda _: None)

torch.cuda._is_compiled = lambda: True
torch._C._cuda_getDeviceCount = lambda: 0 if os.environ.get("BROKEN") else len(seen())
torch.cuda.init, torch.cuda.get_device_properties, torch.ones = init, properties, ones
torch.cuda.synchronize, torch.cuda.mem_get_info = lambda: None, lambda: (1 << 30, 2 << 30)
torch.version.cuda = "13.0"
for environment in json.loads(sys.argv[1]):
    os.environ.update(environment)
    print(json.dumps(machine.look()))
    for name in environment:
        del os.environ[name]
"""
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)"


def look(*environments: dict[str, str]) -> list[dict[str, Any]]:
    """What `trainers.machine` says in each environment of a machine whose torch is faked."""
    base = {name: value for name, value in local.trial_environment().items() if "VISIBLE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", FAKES, json.dumps(environments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=base,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_gpu_is_seen_alone_under_the_name_that_shows_it() -> None:
    all_of_them, named, hidden, broken = look(
        {},
        {"CUDA_VISIBLE_DEVICES": "MIG-5f3e, 9,0"},
        {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"},
        {"BROKEN": TOO_OLD},
    )
    assert all_of_them["build"] == "cuda" and all_of_them["count"] == 4
    whole, display, busy, dead = all_of_them["devices"]
    assert whole["visible_as"] == "0" and whole["free_bytes"] == 1 << 30 and "error" not in whole
    assert whole["capability"] == [9, 0] and whole["total_bytes"] == 79 << 30
    assert display["error"] == "CUDA error: no kernel image is available for execution"
    assert busy["name"] == "NVIDIA A100-SXM4-40GB" and "busy or unavailable" in busy["error"]
    assert dead == {"visible_as": "3", "error": "the process that was to start CUDA ended without an answer"}
    (mig,) = named["devices"][:1]
    assert mig["visible_as"] == "MIG-5f3e" and mig["total_bytes"] == 19 << 30
    assert [item["visible_as"] for item in hidden["devices"]] == ["GPU-8932f937"]
    assert (broken["devices"], broken["error"]) == ([], TOO_OLD)


def test_a_build_without_cuda_sees_no_gpu() -> None:
    from trainers import machine

    if torch.cuda._is_compiled():
        return
    found = machine.look()
    assert (found["build"], found["devices"], found["torch"]) == ("cpu", [], torch.__version__)


def test_rocm_names_what_its_own_variable_shows() -> None:
    from trainers import machine

    saved = {name: os.environ.pop(name, None) for name in machine.HIDING}
    try:
        assert machine.visible_names(2) == ["0", "1"]
        os.environ.update(CUDA_VISIBLE_DEVICES="5,6", HIP_VISIBLE_DEVICES="2, 3")
        assert machine.visible_names(2) == ["2", "3"]
        assert machine.visible_names(1) == ["2"], "as for CUDA, what follows a name that is none is hidden"
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
