"""`python -m trainers.memory FOLDER`: predict the configurations of FOLDER/memory.json.

`main` serves one folder: it reads `memory.json` (`configs`, `cache_dir`) and writes `predicted.json` with,
for each configuration in the same order, a prediction or the reason why there is none.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from sweeper.contract import read_json, write_json
from sweeper.schema import Config, from_dict
from trainers.environment import quiet_libraries
from trainers.memory.lengths import batches_of
from trainers.memory.predict import PredictionError, on_cuda, predict


def main(folder: Path) -> None:
    """Answer `folder/memory.json` with `folder/predicted.json`."""
    quiet_libraries()
    asked = read_json(folder / "memory.json")
    cache_dir = Path(asked["cache_dir"])
    cells, known = [], {}
    for config in map(from_dict, asked["configs"]):
        key = memory_key(config)
        if key not in known:
            known[key] = answer(config, cache_dir)
        cells.append(known[key])
    write_json(folder / "predicted.json", {"cells": cells})


def memory_key(config: Config) -> str:
    """Equal keys need equal memory: what says nothing about the work is left out."""
    values = config.to_dict()
    for name in ("study", "tracking", "objective", "constraint", "hardware", "memory", "production"):
        values.pop(name, None)
    for name in (
        "learning_rate",
        "weight_decay",
        "lr_scheduler_type",
        "warmup_steps",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
    ):
        values["train"].pop(name)
    values["trial"] = values["trial"]["device"]
    return json.dumps(values, sort_keys=True)


def answer(config: Config, cache_dir: Path) -> dict[str, Any]:
    """The prediction of one configuration, or `{"error": …}`."""
    try:
        batches = batches_of(config, cache_dir)
        found = predict(
            config,
            batches.shapes,
            on_cuda(config),
            notes=batches.notes,
            tokens_per_step=batches.tokens_per_step,
        )
        further = {"steps": float(batches.steps), "evaluation_tokens": batches.evaluation_tokens}
        return dataclasses.replace(found, work={**found.work, **further}).to_json()
    except (PredictionError, OSError, ValueError) as error:
        return {"error": str(error)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
