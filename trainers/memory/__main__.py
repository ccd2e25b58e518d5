"""`python -m trainers.memory FOLDER`: predict the configurations of FOLDER/memory.json.

`main` serves one folder: it reads `memory.json` (`configs`, `cache_dir`) and writes `predicted.json` with,
for each configuration in the same order, a prediction or the reason why there is none.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from sweeper.contract.config import Config, from_dict
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.scopes import memory_identity
from trainers.memory.context import context_bytes
from trainers.memory.lengths import batches_of
from trainers.memory.predict import PredictionError, on_cuda, predict
from trainers.meters.environment import quiet_libraries


def main(folder: Path) -> None:
    """Answer `folder/memory.json` with `folder/predicted.json`."""
    quiet_libraries()
    asked = read_json(folder / "memory.json")
    cache_dir = Path(asked["cache_dir"])
    cells, known = [], {}
    for config in map(from_dict, asked["configs"]):
        key = json.dumps(memory_identity(config.to_dict()), sort_keys=True)
        if key not in known:
            known[key] = answer(config, cache_dir)
        cells.append(known[key])
    write_json(folder / "predicted.json", {"cells": cells})


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
        further = {
            "steps": float(batches.steps),
            "evaluation_tokens": batches.evaluation_tokens,
            "general_tokens": batches.general_tokens,
        }
        context = context_bytes(cache_dir) if found.device == "cuda" else None
        return dataclasses.replace(found, context_bytes=context, work=found.work | further).to_json()
    except (PredictionError, OSError, ValueError) as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - what one cell breaks must not take the others' answers
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
