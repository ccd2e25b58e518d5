"""How long the prediction of a large model's memory takes, without weights and without a GPU.

    python -m benchmarks.prediction_time

For each architecture: the dry run alone, in a fork of a process that has imported the training stack (as
trials and predictions of a sweep are), and the whole command `python -m sweeper memory …` with its imports.
The first prediction of a process meets every operation anew; `again_s` is one that has seen them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.memory_cells import configuration
from benchmarks.memory_cpu import CACHE, in_a_fork
from benchmarks.runs import environment, write_result

ARCHITECTURES = ("llama-2-7b", "mistral-7b", "qwen2.5-7b", "llama-3.1-8b")
CHANGES: dict[str, Any] = {
    "quantization": "nf4",
    "precision": "bf16",
    "checkpointing": True,
    "batch.micro": 4,
    "data.max_length": 2048,
}
COMMAND = "quantization=nf4 precision=bf16 checkpointing=on batch.micro=4 data.max_length=2048"
REPEATS = 3


def dry_runs(architecture: str) -> dict[str, float]:
    """Seconds of a first and of a second prediction in one process."""
    from trainers.memory.lengths import batches_of
    from trainers.memory.predict import predict

    config = configuration(f"arch:{architecture}", CHANGES)
    shapes = batches_of(config, CACHE).shapes
    seconds = []
    for _ in range(2):
        began_s = time.perf_counter()
        predict(config, shapes, on_cuda=True)
        seconds.append(time.perf_counter() - began_s)
    return {"first_s": seconds[0], "again_s": seconds[1]}


def command(architecture: str) -> float:
    """Seconds of the whole command."""
    arguments = ["memory", "model=hf", f"model.path=arch:{architecture}", *COMMAND.split()]
    with tempfile.TemporaryDirectory(prefix="sweeper-benchmark-") as folder:
        began_s = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "sweeper", *arguments],
            cwd=Path(folder),
            env=environment(),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - began_s


def main() -> None:
    """Measure, print, write."""
    import trainers.memory.__main__
    import trainers.trial  # noqa: F401

    rows = {}
    for architecture in ARCHITECTURES:
        found = [in_a_fork(partial(dry_runs, architecture)) for _ in range(REPEATS)]
        rows[architecture] = {
            name: round(statistics.median(each[name] for each in found), 2) for name in ("first_s", "again_s")
        }
        commands = [command(architecture) for _ in range(REPEATS)]
        rows[architecture]["command_s"] = round(statistics.median(commands), 2)
        print(architecture, rows[architecture], flush=True)
    figures = {"changes": COMMAND, "repeats": REPEATS, "seconds": rows}
    write_result("prediction_time", "python -m benchmarks.prediction_time", figures)


if __name__ == "__main__":
    main()
