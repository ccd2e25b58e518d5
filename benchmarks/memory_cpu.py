"""How well the predicted peak memory agrees with what a CPU run really takes. No GPU, no network.

    python -m benchmarks.memory_cpu --shape tiny --out tiny.json
    python -m benchmarks.memory_cpu --shape 100m --fp32 --out 100m.json
    python -m benchmarks.memory_cpu --shape search --out search.json
    python -m benchmarks.memory_cpu --join tiny.json 100m.json search.json

Each cell of a grid over the methods is run three times, each in a process of its own: predicted (a dry run,
no weights), counted (a real run under the meter of storages), and plainly as a trial, whose resident
high-water mark is read. Nothing in the prediction is fitted to these cells: the constants of
`trainers/memory/resident.py` come from `--shape 30m --fp32`. `--shard 1/4` runs a part of them; the shards'
files are joined by `--join FILE FILE …`, which writes the tables. `--fp32` leaves 16-bit arithmetic out: a
processor without instructions for it takes minutes for such a cell of a large shape. `--shape search` has the
256 cells that `benchmarks.search_record` trains on the embedded model: they say, with all the others, how
often a cell would be skipped as `predicted_oom` under a limit that it just fits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.memory_cells import SHAPES, cells, configuration, label, make_model, search_cells  # noqa: E402

CACHE = ROOT / ".benchmark-cache"
EMBEDDED = ("tiny", "search")
"""Grids on the embedded model, in whose small process the libraries' own memory outweighs the model's: only
the larger shape is held against the resident peak."""


def in_a_fork(work: Callable[[], Any]) -> Any:
    """The JSON value that `work` returns, computed in a fork so that nothing of it stays here."""
    with tempfile.TemporaryFile("w+") as answer:
        if os.fork() == 0:
            try:
                found = work()
            except BaseException as error:  # noqa: BLE001 - the cell's failure is its result
                traceback.print_exc()
                found = {"error": f"{type(error).__name__}: {error}"[:300]}
            json.dump(found, answer)
            answer.flush()
            os._exit(0)
        os.wait()
        answer.seek(0)
        return json.loads(answer.read() or '{"error": "killed"}')


def predicted(config: Any, cache_dir: Path) -> Any:
    """The prediction, or the error in its place."""
    from trainers.memory.lengths import batches_of
    from trainers.memory.predict import predict

    def work() -> Any:
        began_s = time.perf_counter()
        found = predict(config, batches_of(config, cache_dir).shapes, on_cuda=False).to_json()
        return {**found, "seconds": round(time.perf_counter() - began_s, 2)}

    return in_a_fork(work)


def measure(config: Any, cache_dir: Path, with_resident: bool) -> dict[str, Any]:
    """One cell: predicted, counted, resident."""
    from sweeper.contract.folder import TrialFolder
    from sweeper.contract.trial import TrialSpec
    from trainers.memory.counted import count

    def resident() -> Any:
        from trainers.trial import run

        with tempfile.TemporaryDirectory() as name:
            folder = TrialFolder(Path(name) / "trial")
            spec = TrialSpec("benchmark", 0, "-", config.to_dict(), cache_dir=str(cache_dir))
            folder.write_spec(spec)
            found = run(spec, folder).measurements
        return {key: value for key, value in dataclasses.asdict(found).items() if "memory" in key and value}

    return {
        "predicted": predicted(config, cache_dir),
        "counted": in_a_fork(lambda: count(config, cache_dir).to_json()),
        "resident": in_a_fork(resident) if with_resident else {},
    }


def run(shape: str, shard: tuple[int, int], out: Path, again: bool, fp32_only: bool) -> None:
    """Measure a shard of the cells of one shape and write them to `out` after each; or, `again`, replace
    the predictions of the cells that are there."""
    import torch

    import trainers.memory.counted
    import trainers.trial  # noqa: F401

    torch.set_num_threads(1)
    done: list[dict[str, Any]] = json.loads(out.read_text()) if out.exists() else []
    with tempfile.TemporaryDirectory(prefix="sweeper-benchmark-") as name:
        model = (
            in_a_fork(lambda: make_model(shape, Path(name) / "model")) if shape in SHAPES else "embedded:tiny"
        )
        grid = [
            (changes, config)
            for index, (changes, config) in enumerate(_grid(shape, model))
            if index % shard[1] == shard[0] - 1
        ]
        for number, (changes, config) in enumerate(grid):
            row = next((row for row in done if row["shape"] == shape and row["cell"] == changes), None)
            if again and row is not None:
                row["predicted"] = predicted(config, CACHE)
            if row is not None or again or (fp32_only and config.precision != "fp32"):
                continue
            done.append({"shape": shape, "cell": changes, **measure(config, CACHE, shape not in EMBEDDED)})
            out.write_text(json.dumps(done, indent=1) + "\n")
            print(f"{shape} {number} {label(changes)}: {line(done[-1])}", flush=True)
        out.write_text(json.dumps(done, indent=1) + "\n")


def _grid(shape: str, model: str) -> Iterator[tuple[dict[str, Any], Any]]:
    if shape == "search":
        yield from search_cells()
    else:
        yield from ((changes, configuration(model, changes)) for changes in cells())


def line(row: dict[str, Any]) -> str:
    """The cell's errors in words."""
    counted, resident = errors(row)
    shown = [
        f"{name} {value:+.2%}"
        for name, value in (("counted", counted), ("resident", resident))
        if value is not None
    ]
    failures = [
        part["error"] for part in (row["predicted"], row["counted"], row["resident"]) if "error" in part
    ]
    return ", ".join([*shown, *failures])


def errors(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """Relative errors of the prediction against the counted and against the resident peak."""
    predicted = row["predicted"].get("peak_bytes")
    counted = row["counted"].get("peak_bytes")
    resident = row["resident"].get("peak_memory_bytes")
    expected = row["predicted"].get("resident_bytes") or predicted
    return (
        predicted / counted - 1 if predicted and counted else None,
        expected / resident - 1 if expected and resident else None,
    )


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """A table of the errors by shape."""
    table = [
        "| shape | against | cells | median | 95th percentile | worst |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for shape in dict.fromkeys(row["shape"] for row in rows):
        for position, name in enumerate(("counted storages", "resident high-water mark")):
            found = [errors(row)[position] for row in rows if row["shape"] == shape]
            sizes = sorted(abs(value) for value in found if value is not None)
            if sizes:
                p95 = sizes[max(0, -(-len(sizes) * 95 // 100) - 1)]
                figures = " | ".join(f"{value:.2%}" for value in (statistics.median(sizes), p95, sizes[-1]))
                table.append(f"| {shape} | {name} | {len(sizes)} | {figures} |")
    wrong, known = wrongly_skipped(rows), sum(errors(row)[0] is not None for row in rows)
    words = f"Skipped as predicted_oom under a limit that they just fit: {len(wrong)} of {known} cells"
    if not wrong and known:
        words += f" (below {3 / known:.2%} with 95% confidence, by the rule of three)"
    return [*table, "", f"{words}."]


def wrongly_skipped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cells that `memory.skip=confident` would not run although they fit, at the default margin, were the
    limit what the real run's storages took: the tightest under which they could fit."""
    from sweeper.contract.study_config import MemoryConfig
    from sweeper.preflight.memory import exceeds

    margin = MemoryConfig().margin
    return [
        row
        for row in rows
        if errors(row)[0] is not None
        and exceeds(row["predicted"]["peak_bytes"], row["counted"]["peak_bytes"], margin)
    ]


def details(rows: list[dict[str, Any]]) -> list[str]:
    """A table of all cells."""
    table = ["| shape | cell | predicted MiB | phase | counted MiB | error | resident MiB | error |"]
    table.append("|---|---|---:|---|---:|---:|---:|---:|")
    for row in rows:
        counted, resident = errors(row)
        mib = [
            f"{value / 2**20:,.1f}" if value else "–"
            for value in (
                row["predicted"].get("peak_bytes"),
                row["counted"].get("peak_bytes"),
                row["resident"].get("peak_memory_bytes"),
            )
        ]
        shown = ["–" if value is None else f"{value:+.2%}" for value in (counted, resident)]
        table.append(
            f"| {row['shape']} | {label(row['cell'])} | {mib[0]} | {row['predicted'].get('phase', '–')} "
            f"| {mib[1]} | {shown[0]} | {mib[2]} | {shown[1]} |"
        )
    return table


def join(files: list[Path], out: Path) -> None:
    """Write all rows to `out` and the tables beside it."""
    rows = [row for file in files for row in json.loads(file.read_text())]
    rows.sort(key=lambda row: (row["shape"], label(row["cell"])))
    out.write_text(json.dumps(rows, indent=1) + "\n")
    text = ["# Predicted peak memory on CPU", "", *summary(rows), "", *details(rows), ""]
    out.with_suffix(".md").write_text("\n".join(text))
    print("\n".join(summary(rows)))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="tiny", choices=(*EMBEDDED, *SHAPES))
    parser.add_argument("--shard", default="1/1")
    parser.add_argument("--again", action="store_true", help="predict the cells of --out anew")
    parser.add_argument("--fp32", action="store_true", help="leave 16-bit arithmetic out")
    parser.add_argument("--join", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/memory_cpu.json")
    asked = parser.parse_args()
    if asked.join:
        join(asked.join, asked.out)
    else:
        first, _, of = asked.shard.partition("/")
        run(asked.shape, (int(first), int(of)), asked.out, asked.again, asked.fp32)


if __name__ == "__main__":
    main()
