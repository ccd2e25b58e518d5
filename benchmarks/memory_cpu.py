"""How well the predicted peak memory agrees with what a CPU run really takes. No GPU, no network.

    python -m benchmarks.memory_cpu --shape tiny --out tiny.json
    python -m benchmarks.memory_cpu --shape 100m --fp32 --out 100m.json
    python -m benchmarks.memory_cpu --join tiny.json 100m.json

Each cell of a grid over the methods is run three times, each in a process of its own: predicted (a dry run,
no weights), counted (a real run under the meter of storages), and plainly as a trial, whose resident
high-water mark is read. Nothing in the prediction is fitted to these cells: the two constants of
`trainers/memory/resident.py` come from `--shape 30m --shard 1/6`. `--shard 1/4` runs a part of
them; the shards' files are joined by `--join FILE FILE …`, which writes the tables. `--fp32` leaves 16-bit
arithmetic out: a processor without instructions for it takes minutes for such a cell of a large shape.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
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

CACHE = ROOT / ".benchmark-cache"
STEPS = {
    "train.steps": 2,
    "trial.warmup_steps": 1,
    "data.max_train_examples": 64,
    "data.max_eval_examples": 8,
    "evaluate.general": 4,
}
MICRO = {"batch.micro": 4, "batch.effective": 8}


def cells() -> Iterator[dict[str, Any]]:
    """The grid: methods crossed where they interact, and each further option once or twice."""
    loops = itertools.cycle(("accelerate", "hf"))
    for storage, precision, recompute in itertools.product(
        ("none", "int8", "nf4"), ("fp32", "bf16", "bf16_pure"), (False, True)
    ):
        yield {
            "quantization": storage,
            "precision": precision,
            "checkpointing": recompute,
            "trainer": next(loops),
        }
    next(loops)
    for precision, recompute, optim in itertools.product(
        ("fp32", "bf16", "bf16_pure"), (False, True), ("adamw_torch", "adafactor", "adamw_8bit")
    ):
        full = {"adapter": "full", "precision": precision, "checkpointing": recompute, "optim": optim}
        yield {**full, "trainer": next(loops)}
    for micro, trainer in itertools.product((1, 2, 8), ("accelerate", "hf")):
        yield {"batch.micro": micro, "trainer": trainer}
        yield {"batch.micro": micro, "precision": "bf16", "checkpointing": True, "trainer": trainer}
    for attention, precision in itertools.product(("eager",), ("fp32", "bf16", "bf16_pure")):
        yield {"attention": attention, "precision": precision}
        yield {"attention": attention, "precision": precision, "checkpointing": True, "trainer": "hf"}
    yield from further()


def further() -> Iterator[dict[str, Any]]:
    """Options that the crossings leave out."""
    for changes in (
        {"lora.use_dora": True},
        {"lora.dropout": 0.1},
        {"lora.target_modules": "all-linear", "lora.r": 64},
        {"lora.target_modules": "all-linear", "lora.r": 64, "optim": "adamw_8bit"},
        {"data.packing": True},
        {"data.packing": True, "precision": "bf16", "quantization": "nf4"},
        {"adapter": "full", "optim": "sgd"},
        {"adapter": "full", "optim": "lion_8bit", "trainer": "hf"},
        {"adapter": "full", "optim": "adamw_torch_fused"},
        {"adapter": "full", "batch.effective": 4},
        {"model.dtype": "bfloat16", "precision": "bf16"},
        {"data.max_length": 64},
    ):
        yield dict(changes)


def configuration(model: str, changes: dict[str, Any]) -> Any:
    """The resolved configuration of one cell."""
    from sweeper.config import resolved
    from sweeper.schema import Config, from_dict

    values = Config().to_dict()
    for key, value in {**STEPS, **MICRO, "trial.device": "cpu", "model.path": model, **changes}.items():
        *groups, name = key.split(".")
        place = values
        for group in groups:
            place = place[group]
        assert name in place, key
        place[name] = value
    return resolved(from_dict(values))


SHAPES = {"100m": (768, 2688, 12, 12), "30m": (512, 1536, 8, 8)}
"""Width, inner width, layers and heads of the models of random weights."""


def make_model(shape: str, folder: Path) -> str:
    """A Llama of about as many random parameters as its name says, with the embedded tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    from trainers import embedded

    tokenizer = AutoTokenizer.from_pretrained(embedded.model_path())
    set_seed(0)
    width, inner, layers, heads = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


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
    """One cell: predicted, counted, resident. In a small process the libraries' own memory outweighs the
    model's, so only the larger shape is held against the resident peak."""
    from sweeper.contract import TrialFolder, TrialSpec
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
        if again:
            for row in done:
                row["predicted"] = predicted(configuration(model, row["cell"]), CACHE)
            out.write_text(json.dumps(done, indent=1) + "\n")
            return
        for index, changes in enumerate(cells()):
            is_other = index % shard[1] != shard[0] - 1
            is_done = any(row["shape"] == shape and row["cell"] == changes for row in done)
            if is_other or is_done or (fp32_only and changes.get("precision", "fp32") != "fp32"):
                continue
            found = measure(configuration(model, changes), CACHE, shape != "tiny")
            done.append({"shape": shape, "cell": changes, **found})
            out.write_text(json.dumps(done, indent=1) + "\n")
            print(f"{shape} {index} {label(changes)}: {line(done[-1])}", flush=True)


def label(changes: dict[str, Any]) -> str:
    """The cell as a user would type it."""
    return " ".join(f"{key}={value}" for key, value in changes.items())


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
    return table


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
    parser.add_argument("--shape", default="tiny", choices=("tiny", *SHAPES))
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
