"""The driver believes what a trial's process says of the GPUs, and tells once what keeps trials off them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pynvml
import pytest

from sweeper.config.rules import check
from sweeper.contract.config import Config, TrialConfig
from sweeper.contract.json_files import write_json
from sweeper.launchers import sight
from sweeper.launchers.local import Job
from sweeper.machine import (
    Machine,
    bare_machine,
    device_memory_bytes,
    free_memory_bytes,
    is_known,
    machine_seen,
    remember,
)
from sweeper.preflight.sight import measure_ceilings
from tests.support.commands import SHORT, new_sweeper

ONE_GPU = """
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
"""
"""A library that answers as NVML does on a machine with one GPU; what it lacks is unknown to its caller."""


def torch_is_for_cuda() -> bool:
    return not version("torch").endswith("+cpu")


Seen = Mapping[str, Any]
H100 = {"visible_as": "0", "name": "NVIDIA H100 80GB HBM3", "capability": [9, 0], "total_bytes": 79 << 30}
CUDA = {"torch": "2.13.0", "build": "cuda", "runtime": "13.0", "driver": "580.65", "devices": [H100]}
T4 = {"visible_as": "1", "name": "Tesla T4", "capability": [7, 5], "total_bytes": 15 << 30}


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver counts a GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 1)


def refusals(machine: Machine, **options: Any) -> list[str]:
    """Rule and remedy of each problem of a configuration there."""
    return [f"{item.rule} | {item.remedy}" for item in check(Config(**options), machine)]


@dataclass
class Answering:
    """A launcher whose process writes this answer, or ends without one."""

    answer: Seen | None

    def start(self) -> None: ...

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> Job:
        assert verb == "machine"
        stderr.write_text("Traceback\nOSError: libcudart.so.13")
        if self.answer is not None:
            write_json(folder / "seen.json", dict(self.answer))
        return Job(1, exit_code=0 if self.answer else 1)

    def wait(self, timeout_s: float) -> None: ...

    def close(self) -> None: ...


def test_what_the_process_says_is_the_machine(nvidia: None) -> None:
    found = sight.ask_machine(Answering(CUDA))
    assert found.device == "NVIDIA H100 80GB HBM3" and found.compute_capability == (9, 0)
    assert found.trouble is None and found.driver == "580.65" and refusals(found) == []


def test_a_process_without_an_answer_is_told_in_one_message(nvidia: None) -> None:
    found = sight.ask_machine(Answering(None))
    (said,) = refusals(found)
    assert "libcudart.so.13" in said and "trial.device=cpu" in said
    assert refusals(found, trial=TrialConfig(device="cpu")) == []


@pytest.mark.parametrize(
    ("seen", "words", "remedy"),
    [
        ({"build": "cpu", "torch": "2.13.0+cpu", "devices": []}, "built without CUDA", "install a build"),
        (
            {"devices": [], "error": "The NVIDIA driver on your system is too old"},
            "too old",
            "580.65: update",
        ),
        (
            {"devices": [{**H100, "error": "all CUDA-capable devices are busy or unavailable"}]},
            "busy",
            "end the",
        ),
    ],
)
def test_a_gpu_that_trials_cannot_use_is_told_once_and_never_keyed(
    seen: Seen, words: str, remedy: str, nvidia: None
) -> None:
    found = machine_seen({**CUDA, **seen})
    assert found.device == f"cpu {bare_machine().cpu}"
    for device in ("auto", "cuda"):
        (said,) = refusals(found, trial=TrialConfig(device=device))
        assert (words in said and remedy in said and "trial.device=cpu" in said) or remedy == "end the"
    assert refusals(found, trial=TrialConfig(device="cpu")) == []


def test_a_name_that_shows_no_gpu_is_told(nvidia: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    (said,) = refusals(machine_seen({**CUDA, "devices": [], "error": "no GPU is visible"}))
    assert "CUDA_VISIBLE_DEVICES=9 names no GPU" in said


@pytest.mark.parametrize("hidden", ["", "-1", "-1,0"])
def test_gpus_that_the_user_hides_are_not_asked_for(
    hidden: str, nvidia: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_known()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert is_known() and refusals(bare_machine()) == []


def test_a_display_card_on_which_cuda_does_not_start_is_left_alone(nvidia: None) -> None:
    display = {**T4, "name": "GT 1030", "error": "no kernel image is available"}
    found = machine_seen({**CUDA, "devices": [display, H100]})
    assert found.device == H100["name"] and [item.visible_as for item in found.usable] == ["0"]
    assert refusals(found) == [] and not found.is_mixed


def test_free_memory_is_told_in_steps_so_that_a_desktop_sizes_alike(
    nvidia: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.machine._remembered", [])
    total = 32 << 30
    for free in (int(30.2 * 2**30), int(30.9 * 2**30)):
        remember(machine_seen({**CUDA, "devices": [{**H100, "total_bytes": total, "free_bytes": free}]}))
        assert (device_memory_bytes(), free_memory_bytes()) == (total, 30 << 30)


def test_unlike_gpus_are_refused_with_the_way_to_choose(nvidia: None) -> None:
    (said,) = refusals(machine_seen({**CUDA, "devices": [H100, T4]}))
    assert "must be alike" in said and "CUDA_VISIBLE_DEVICES=0" in said
    assert refusals(machine_seen({**CUDA, "devices": [T4, {**T4, "visible_as": "2"}]})) == []


def test_amd_gpus_are_used_and_their_numbering_is_not_nvidias() -> None:
    rocm = {
        **CUDA,
        "build": "rocm",
        "devices": [{**H100, "name": "AMD Instinct MI210", "capability": [9, 0]}],
    }
    found = machine_seen(rocm)
    assert found.device == "AMD Instinct MI210" and found.compute_capability is None
    assert refusals(found, precision="bf16") == []


def test_bfloat16_is_refused_where_it_is_emulated(nvidia: None) -> None:
    found = machine_seen({**CUDA, "devices": [T4]})
    for precision in ("bf16", "bf16_pure"):
        (said,) = refusals(found, precision=precision)
        assert "Tesla T4 (7.5)" in said and "precision=fp16" in said
    assert refusals(found, precision="fp16") == []
    assert refusals(found, precision="bf16", trial=TrialConfig(device="cpu")) == []


def test_flash_attention_needs_its_own_package_and_capability(nvidia: None) -> None:
    found = machine_seen(CUDA)
    (said,) = refusals(found, precision="bf16", attention="flash_attention_2")
    assert "flash-attn" in said and "--no-build-isolation" in said
    other = replace(found, kernels=frozenset({"flash_attention_4"}))
    assert refusals(other, precision="bf16", attention="flash_attention_2"), "flash-attn-4 is another package"
    has_it = replace(found, kernels=frozenset({"flash_attention_2"}))
    assert refusals(has_it, precision="bf16", attention="flash_attention_2") == []


@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler to build a stub of NVML with")
@pytest.mark.skipif(torch_is_for_cuda(), reason="a build of torch for CUDA")
def test_a_cpu_build_of_torch_beside_a_gpu_ends_in_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvml.c").write_text(ONE_GPU)
    library = str(tmp_path / "libnvidia-ml.so.1")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, str(tmp_path / "nvml.c")], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    refused = new_sweeper(tmp_path, "lora.r=8", *SHORT)
    assert refused.returncode == 2 and not list(tmp_path.glob("studies/*/trials")), refused.stderr
    assert "built without CUDA" in refused.stderr and refused.stderr.count("set trial.device=cpu") == 1


def test_ceilings_are_measured_once_for_each_kind_of_gpu(nvidia: None) -> None:
    rates = {"bf16": 7e14, "copy": 3e12}
    alike = machine_seen({**CUDA, "devices": [H100, {**H100, "visible_as": "1"}]})
    assert measure_ceilings(Answering(rates), alike) == {"NVIDIA H100 80GB HBM3": rates}
    assert measure_ceilings(Answering(None), alike) == {}
