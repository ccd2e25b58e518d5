"""`python -m trainers TRIAL_DIR`: carry out the trial that TRIAL_DIR/spec.json asks for.

The whole interface of a trial is its folder. The exit status is 0 when `result.json` was written,
whatever the outcome: outcomes are values.
"""

from __future__ import annotations

import dataclasses
import gc
import re
import sys
import tempfile
import traceback
from pathlib import Path

from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from trainers.process import MemoryLimit, choose_devices, require_devices, use_threads

CUDA_ERROR_MEMORY_ALLOCATION = 2
"""`cudaErrorMemoryAllocation` of CUDA's driver_types.h."""
ALLOCATION_FAILED = re.compile(
    r"\b(CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_(ALLOC|INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION)_FAILED)\b"
    r"|CUDA driver error: out of memory"
)
"""Statuses of cublas_api.h and cudnn_graph.h (the first of cuDNN's up to its version 8), and what
C10_CUDA_DRIVER_CHECK of torch's c10/cuda makes of CUDA_ERROR_OUT_OF_MEMORY. torch raises them as plain
RuntimeErrors: they have no other place than the text, where they are names that can be relied on."""
HANDLE_FAILED = "CUBLAS_STATUS_NOT_INITIALIZED"
"""Status of cublas_api.h when cuBLAS gets no handle: on a full device, or with a broken installation."""
FULL_BYTES = 256 * 2**20
"""Free device memory below which a handle is taken to have failed for want of it: several times the largest
workspace of cuBLAS's documentation (cublasSetWorkspace), 32 MiB."""


def main(arguments: list[str]) -> int:
    """Run the trial in the folder that is named."""
    if len(arguments) != 1 or not TrialFolder(Path(arguments[0])).spec.is_file():
        sys.stderr.write("usage: python -m trainers TRIAL_DIR (a folder with a spec.json)\n")
        return 2
    run_trial(TrialFolder(Path(arguments[0]).absolute()))
    return 0


def run_trial(folder: TrialFolder) -> None:
    """Carry out the trial and write its result, whatever fails."""
    try:
        spec = folder.read_spec()
        choose_devices(spec)
        use_threads(spec)
        result = _result(spec, folder)
    except Exception as error:  # noqa: BLE001 - what fails outside of the recipe is an outcome too
        trace = traceback.format_exc()
        sys.stderr.write(trace)
        result = TrialResult(Outcome.CRASHED, _reason(error), traceback=trace)
        if is_out_of_memory(error):
            result = _out_of_memory(result, None)
    folder.write_result(result)


def _result(spec: TrialSpec, folder: TrialFolder) -> TrialResult:
    from trainers.production.run import open_production
    from trainers.proof import NotActiveError
    from trainers.trial import Trial

    trial = open_production(spec, folder) if spec.production else Trial(spec, folder)
    limit = None
    try:
        require_devices(spec, trial.config)
        limit = MemoryLimit(trial.config.trial.memory_limit_gib, trial.device.type == "cuda")
        return trial.run()
    except NotActiveError as error:
        return dataclasses.replace(error.result, traceback=traceback.format_exc())
    except Exception as error:  # noqa: BLE001 - the broad except that is meant: an error is an outcome
        trace = traceback.format_exc()
        sys.stderr.write(trace)
        crashed = trial.result(Outcome.CRASHED, _reason(error), trace)
        is_memory = is_out_of_memory(error)
        is_plain = isinstance(error, RuntimeError)
        limit_gib = trial.config.trial.memory_limit_gib
        _let_go(error)
    del trial
    if not is_memory and is_plain and limit is not None and limit.on_cpu:
        is_memory = succeeds_without_limit(spec, crashed.measurements.steps or 0, limit)
    return _out_of_memory(crashed, limit_gib) if is_memory else crashed


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, by the exception's type, the code that CUDA gave it, or the status that
    the driver, cuBLAS or cuDNN gave.

    bitsandbytes' own allocations end the process when they fail: the driver recognises those by the log.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) == CUDA_ERROR_MEMORY_ALLOCATION
    if ALLOCATION_FAILED.search(str(error)):
        return True
    return HANDLE_FAILED in str(error) and is_device_full()


def is_device_full() -> bool:
    """Whether the CUDA device has next to no memory left; False where it does not say."""
    import torch

    try:
        free_bytes, _ = torch.cuda.mem_get_info()
    except (RuntimeError, AssertionError):  # after some errors CUDA answers nothing more
        return False
    return free_bytes < FULL_BYTES


def _let_go(error: BaseException | None) -> None:
    """Clear the frames that failed: their variables hold the model, whatever else may hold the frames."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _out_of_memory(crashed: TrialResult, limit_gib: float | None) -> TrialResult:
    allowed = f"trial.memory_limit_gib={limit_gib}" if limit_gib else "the device's memory"
    reason = (
        f"the trial must fit {allowed}, but an allocation failed: lower batch.micro, set "
        "checkpointing=on, or quantise the base"
    )
    return dataclasses.replace(crashed, outcome=Outcome.OUT_OF_MEMORY, reason=reason)


def succeeds_without_limit(spec: TrialSpec, steps_done: int, limit: MemoryLimit) -> bool:
    """Whether the same work gets past the failed step once the limit is lifted.

    torch raises a plain RuntimeError when the CPU allocator fails, and an error's text is no contract:
    the experiment is.
    """
    from trainers.meters.readers import release_freed
    from trainers.methods.optimizers import forget_overrides
    from trainers.trial import Trial

    forget_overrides()
    gc.collect()  # closures tie the first attempt into cycles
    release_freed()
    limit.lift()
    config = {**spec.config, "train": {**spec.config["train"], "steps": steps_done + 1, "token_budget": None}}
    with tempfile.TemporaryDirectory(prefix="sweeper-limit-") as scratch:
        try:
            result = Trial(dataclasses.replace(spec, config=config), TrialFolder(Path(scratch))).run()
        except Exception as error:  # noqa: BLE001 - it fails in itself; the first error is reported
            sys.stderr.write(f"without trial.memory_limit_gib={limit.limit_gib}: {error}\n")
            return False
    return result.outcome is Outcome.COMPLETED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
