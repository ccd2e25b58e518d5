"""The fork server never initialises CUDA, whatever the libraries that it imports ask for."""

import subprocess
import sys

import pytest

from sweeper.launchers import local

PRELOADED = """
import torch
torch.cuda._is_compiled = torch.backends.cuda.is_built = lambda: True
torch.cuda._device_count_nvml = lambda: {nvml}

def into_cuda(*_):
    raise SystemExit("CUDA was used before the fork")  # bitsandbytes swallows every Exception

torch.cuda._lazy_init = into_cuda
for name in ("_cuda_init", "_cuda_getDeviceCount", "_cuda_getDevice"):
    setattr(torch._C, name, into_cuda)
torch._C._cuda_getCurrentRawStream = into_cuda  # a CUDA build has it, and torch's compiler imports it
"""
RUNTIME = """
from trainers import devices
devices._ask = lambda: {"capabilities": [[9, 0], [8, 6]]}
"""


def python(program: str) -> subprocess.CompletedProcess[str]:
    """Run it as the fork server is run."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env=local.trial_environment(),
        check=False,
    )


@pytest.mark.parametrize(("nvml", "runtime"), [(-1, ""), (1, ""), (-1, RUNTIME), (2, RUNTIME)])
def test_importing_the_training_stack_never_initialises_cuda(nvml: int, runtime: str) -> None:
    """On a CUDA build, whether NVML answers or not."""
    preload = "from trainers import warm\nwarm._preload()\nprint('clean')"
    done = python(PRELOADED.format(nvml=nvml) + runtime + preload)
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr


def test_libraries_hear_of_the_devices_that_the_runtime_finds() -> None:
    asking = """
with devices.untouched():
    print(torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.get_device_capability())
    print([torch.cuda.get_device_capability(torch.cuda.device(index)) for index in range(2)])
print(torch.cuda._lazy_init is into_cuda)
"""
    done = python(PRELOADED.format(nvml=0) + RUNTIME + asking)
    assert done.stdout.splitlines() == ["True 2 (9, 0)", "[(9, 0), (8, 6)]", "True"], done.stderr


def test_a_library_that_uses_cuda_all_the_same_ends_the_server() -> None:
    poisoning = """
with devices.untouched():
    torch.cuda._is_in_bad_fork = lambda: True
"""
    done = python(PRELOADED.format(nvml=0) + RUNTIME + poisoning)
    assert "the fork server must not use CUDA" in done.stderr


def test_the_process_that_forks_the_commands_of_tests_never_initialises_cuda() -> None:
    imports = "from tests.support import forked\nforked._import()\nprint('clean')"
    done = python(PRELOADED.format(nvml=1) + imports)
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr
