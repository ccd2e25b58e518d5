"""Tokens per second of the Accelerate loop against `transformers.Trainer`, side by side in one run.

    python -m benchmarks.loops [OVERRIDE …]

Both train the same batches in the same order. The two run in turns, once per seed; the figure is the median
of the ratios of such pairs. Overrides choose another model, precision or size.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.runs import metric, run_study, write_result

SEEDS = ",".join(map(str, range(12)))


def main() -> None:
    """Measure, print, write."""
    overrides = sys.argv[1:]
    command = " ".join(["python -m benchmarks.loops", *overrides])
    with tempfile.TemporaryDirectory() as name:
        records = run_study(Path(name), f"train.seed={SEEDS}", "trainer=accelerate,hf", *overrides)
    by_cell = {
        (item.spec.config["trainer"], item.spec.config["train"]["seed"]): metric(item, "tokens_per_s")
        for item in records
    }
    pairs = [(by_cell["accelerate", int(seed)], by_cell["hf", int(seed)]) for seed in SEEDS.split(",")]
    ratios = [accelerate / trainer for accelerate, trainer in pairs]
    for accelerate, trainer in pairs:
        print(f"accelerate {accelerate:8,.0f}   transformers.Trainer {trainer:8,.0f} tokens/s")
    print(f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    write_result("loops", command, {"tokens_per_s_accelerate_and_trainer": pairs, "ratios": ratios})


if __name__ == "__main__":
    main()
