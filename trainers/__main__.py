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
from trainers.process import MemoryLimit, choose_devices, use_threads

CUDA_ERROR_MEMORY_ALLOCATION = 2
"""`cudaErrorMemoryAllocation` of CUDA's driver_types.h."""
ALLOCATION_FAILED = re.compile(
    r"\b(CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_(ALLOC|INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION)_FAILED)\b"
)
"""Statuses of cublas_api.h and cudnn_graph.h (the first of cuDNN's up to its version 8). torch raises them as
plain RuntimeErrors: the status has no other place than the text, where it is a name that can be relied on."""


def main(arguments: list[str]) -> int:
    """Run the trial in the folder that is named."""
    if len(arguments) != 1 or not TrialFolder(Path(arguments[0])).spec.is_file():
        sys.stderr.write("usage: python -m trainers TRIAL_DIR (a folder with a spec.json)\n")
        return 2
    run_trial(TrialFolder(Path(arguments[0]).absolute()))
    return 0


def run_trial(folder: TrialFolder) -> None:
    """Carry out the trial and write its result."""
    spec = folder.read_spec()
    choose_devices(spec)
    use_threads(spec)
    folder.write_result(_result(spec, folder))


def _result(spec: TrialSpec, folder: TrialFolder) -> TrialResult:
    from trainers.production.run import open_production
    from trainers.proof import NotActiveError
    from trainers.trial import Trial

    trial = open_production(spec, folder) if spec.production else Trial(spec, folder)
    limit = MemoryLimit(trial.config.trial.memory_limit_gib, trial.device.type == "cuda")
    try:
        return trial.run()
    except NotActiveError as error:
        return dataclasses.replace(error.result, traceback=traceback.format_exc())
    except Exception as error:  # noqa: BLE001 - the broad except that is meant: an error is an outcome
        trace = traceback.format_exc()
        sys.stderr.write(trace)
        crashed = trial.result(Outcome.CRASHED, f"{type(error).__name__}: {error}", trace)
        is_memory = is_out_of_memory(error)
        may_be_memory = limit.on_cpu and isinstance(error, RuntimeError)
        _let_go(error)
    del trial
    if not is_memory and may_be_memory:
        is_memory = succeeds_without_limit(spec, crashed.measurements.steps or 0, limit)
    return _out_of_memory(crashed, limit) if is_memory else crashed


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, by the exception's type, the code that CUDA gave it, or the status that
    cuBLAS or cuDNN gave.

    bitsandbytes' own allocations end the process when they fail: they are not recognised here.
    """
    import torch

    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) == CUDA_ERROR_MEMORY_ALLOCATION
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ALLOCATION_FAILED.search(str(error)) is not None


def _let_go(error: BaseException | None) -> None:
    """Clear the frames that failed: their variables hold the model, whatever else may hold the frames."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _out_of_memory(crashed: TrialResult, limit: MemoryLimit) -> TrialResult:
    allowed = f"trial.memory_limit_gib={limit.limit_gib}" if limit.limit_gib else "the device's memory"
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
