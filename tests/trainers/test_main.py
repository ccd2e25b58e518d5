"""A trial that fails is told from one that ran out of memory."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import Outcome, TrialSpec
from trainers import __main__ as main
from trainers import process
from trainers.loops import LOOPS, Parts, Recorder
from trainers.meters import environment
from trainers.meters.readers import Nvml

MakeConfig = Callable[..., Config]


def accelerator_error(code: int) -> torch.AcceleratorError:
    error = torch.AcceleratorError("CUDA error")
    error.error_code = code  # type: ignore[attr-defined]  # as torch/csrc/Exceptions.cpp sets it
    return error


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (accelerator_error(2), True),
        (accelerator_error(700), False),  # cudaErrorIllegalAddress
        (torch.AcceleratorError("out of memory"), False),
        (RuntimeError("CUDA out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasGemmEx(…)`"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), False),
        (ValueError("CUBLAS_STATUS_ALLOC_FAILED"), False),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("CUDA driver error: invalid argument"), False),
    ],
)
def test_out_of_memory_is_told_by_type_code_and_status(error: Exception, is_memory: bool) -> None:
    assert main.is_out_of_memory(error) is is_memory


@pytest.mark.parametrize(("free_bytes", "is_memory"), [(20 * 2**20, True), (20 * 2**30, False)])
def test_a_library_without_a_handle_is_out_of_memory_on_a_full_device(
    free_bytes: int, is_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_bytes, 80 * 2**30))
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
    assert main.is_out_of_memory(error) is is_memory


def broken(*_: Any) -> Any:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_device_that_answers_nothing_more_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mem_get_info", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, broken)
    assert not main.is_device_full()
    described = environment.describe(torch.device("cuda", 0), Nvml(torch.device("cuda", 0)))
    assert described["device"] is None and described["device_memory_bytes"] is None
    assert described["libraries"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "UnreadableFileError"), ('{"study": "s", "number": 0, "key": "k", "config": {"lora": 1}}', "")],
)
def test_what_fails_before_the_recipe_is_an_outcome(text: str, reason: str, tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    folder.spec.write_text(text)
    assert main.main([str(tmp_path)]) == 0
    result = folder.read_result()
    assert result is not None and result.outcome is Outcome.CRASHED and result.traceback
    assert (result.reason or "").startswith(reason)


def test_a_trial_whose_gpu_does_not_start_crashes_with_the_reason(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not be measured on the CPU under the name of a GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    folder = TrialFolder(tmp_path / "trial")
    folder.write_spec(
        TrialSpec("test", 0, "key", make_config(**{"trial.device": "auto"}).to_dict(), devices="7")
    )
    main.run_trial(folder)
    result = folder.read_result()
    assert result is not None and result.outcome is Outcome.CRASHED and result.environment["python"]
    assert "CUDA" in (result.reason or ""), "what torch says of a build or a driver without CUDA"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


@pytest.fixture
def failing(
    make_config: MakeConfig, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[TrialSpec, TrialFolder]:
    """A trial with a limit on a CPU, whose process is left without one."""
    monkeypatch.setattr(process, "_limit_data", lambda limit: None)
    config = make_config(**{"trial.memory_limit_gib": 1.0, "evaluate.general": 0}).to_dict()
    spec, folder = (
        TrialSpec("test", 0, "key", config, cache_dir=str(cache_dir)),
        TrialFolder(tmp_path / "trial"),
    )
    folder.write_spec(spec)
    return spec, folder


def test_failed_attempt_holds_no_memory_while_it_is_tried_again(
    failing: tuple[TrialSpec, TrialFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, alive = LOOPS["accelerate"], list[weakref.ref[nn.Module]]()
    seen: list[bool] = []

    def train(parts: Parts, recorder: Recorder) -> None:
        model: Any = parts.model
        seen.extend(ref() is not None for ref in alive)
        alive.append(weakref.ref(model))
        if len(alive) == 1:
            model.itself = [model.forward]  # a cycle, as closures make them
            try:
                raise OSError
            except OSError as error:
                raise RuntimeError("not enough memory") from error
        loop(parts, recorder)

    monkeypatch.setitem(LOOPS, "accelerate", train)
    gc.disable()  # what is let go must not depend on when the collector comes by
    try:
        result = main._result(*failing)
    finally:
        gc.enable()
    assert (result.outcome, seen) == (Outcome.OUT_OF_MEMORY, [False])
    assert result.reason is not None and "trial.memory_limit_gib=1.0" in result.reason
    assert result.traceback is not None and "not enough memory" in result.traceback


def test_error_that_comes_again_without_the_limit_is_no_matter_of_memory(
    failing: tuple[TrialSpec, TrialFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setitem(LOOPS, "accelerate", train)
    result = main._result(*failing)
    assert (result.outcome, result.reason) == (Outcome.CRASHED, "RuntimeError: shapes differ")
