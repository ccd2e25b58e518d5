"""Measure every cell of a grid once with the real trainer: the table that `benchmarks.search` plays on.

    python -m benchmarks.search_record [--out FILE]

Each cell is run twice in a process of its own, as a probe (a few steps, no evaluation) and trained in full,
one trial at a time on one core. The table holds what the trials measured and how long they took. A cell that
ran out of memory under `trial.memory_limit_gib` is a row like any other. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.runs import RESULTS, write_result
from sweeper.config.cell import Cell
from sweeper.config.hydra import initialized_hydra
from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import TrialResult, TrialSpec
from sweeper.launchers.local import LocalLauncher
from sweeper.machine import machine
from sweeper.space.expand import expand
from sweeper.strategies.fidelity import probe_of

GRID = (
    "batch.micro=1,2,4,8",
    "checkpointing=off,on",
    "adapter=lora,full",
    "lora.r=8,16,64",
    "optim=adamw,adamw_fused,adafactor,bnb8",
    "attention=sdpa,eager",
)
"""What is swept; `CONDITION` leaves 256 cells of it."""
CONDITION = "space.never=['adapter=full lora.r=16,64']"
FIXED = (
    "batch.effective=8",
    "data.max_length=32",
    "data.completion_only_loss=false",
    "data.max_eval_examples=64",
    "evaluate.general=0",
    "train.steps=16",
    "trial.warmup_steps=2",
    "search.probe_steps=4",
    "trial.threads=1",
    "trial.memory_limit_gib=0.07",
    "memory.skip=never",
)
"""Short sequences, so that a pass costs its fixed price too, as it does on a GPU."""
KEPT = (
    "tokens_per_s", "step_time_s", "peak_memory_bytes", "eval_loss", "train_loss", "steps", "tokens",
    "load_time_s", "total_time_s",
)  # fmt: skip
"""Measurements that the table holds."""


def cells() -> tuple[Cell, ...]:
    """The cells of the grid, in its order."""
    with initialized_hydra():
        return expand([*GRID, CONDITION, *FIXED], "config", machine()).cells


def row(result: TrialResult) -> dict[str, Any]:
    """What the table keeps of a trial."""
    measured = asdict(result.measurements)
    return {"outcome": result.outcome.value, **{name: measured[name] for name in KEPT}}


def measured(cells: tuple[Cell, ...], done: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """The rows that are missing, as they come."""
    launcher = LocalLauncher(folder / "launcher.log")
    launcher.start()
    try:
        for number, cell in enumerate(cells):
            if cell.label in done:
                continue
            probe = _run(launcher, probe_of(cell, cell.config.search.probe_steps), folder, 2 * number)
            train = _run(launcher, cell, folder, 2 * number + 1)
            yield {"cell": cell.label, "probe": row(probe), "train": row(train)}
    finally:
        launcher.close()


def _run(launcher: LocalLauncher, cell: Cell, folder: Path, number: int) -> TrialResult:
    trial = TrialFolder(folder / f"{number:04d}")
    cache = str(folder / "cache")
    trial.write_spec(
        TrialSpec("record", number, str(number), cell.config.to_dict(), threads=1, cache_dir=cache)
    )
    job = launcher.submit("trial", trial.path, trial.stdout, trial.stderr)
    while not job.done():
        launcher.wait(1.0)
    result = trial.read_result()
    assert result is not None, trial.stderr.read_text()
    return result


def main() -> None:
    """Measure, print, write after every cell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="search_table")
    parser.add_argument("--most", type=int, help="measure so many cells only")
    parser.add_argument("--only", default="", help="measure cells whose name holds this")
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    path = RESULTS / f"{asked.out}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {item["cell"]: item for item in rows}
    wanted = tuple(cell for cell in cells() if all(word in cell.label for word in asked.only.split()))[
        : asked.most
    ]
    with tempfile.TemporaryDirectory(prefix="sweeper-record-") as name:
        for item in measured(wanted, done, Path(name)):
            rows.append(item)
            train = item["train"]
            print(
                len(rows),
                item["cell"],
                train["outcome"],
                train["tokens_per_s"],
                train["total_time_s"],
                flush=True,
            )
            figures = {"grid": [*GRID, CONDITION], "fixed": list(FIXED), "rows": rows}
            write_result(asked.out, "python -m benchmarks.search_record", figures)


if __name__ == "__main__":
    main()
