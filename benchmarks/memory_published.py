"""The predicted peak memory against figures that others have published, beside two simple formulas.

    python -m benchmarks.memory_published

`published_memory.json` holds the figures with their sources. Nothing in the prediction is fitted to them.
A row whose configuration this project cannot express (a compiler, chunked losses, offloading, another
library's kernels) is marked, and its nearest configuration is predicted for what it is worth.

The two formulas: four times the weights (what `accelerate estimate-memory` shows for training with Adam),
and states plus activations of s·b·h·(34 + 5·a·s/h) bytes per layer (arXiv 2205.05198, equation 2), or one
input of 2·s·b·h per layer and one layer's activations where the forward pass is recomputed (section 5).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

MIB, GIB, GB = 2**20, 2**30, 10**9
V100_CONTEXT = 1343 * MIB
"""What the source says its process held before training."""


@dataclass(frozen=True)
class Case:
    """One published row and the configuration that is nearest to it."""

    source: str
    row: str
    published_bytes: int
    metric: str
    """`peak`: live tensors; `device`: segments and context."""
    changes: dict[str, Any]
    length: int
    context_bytes: int = 0
    is_padded: bool = False
    is_classifier: bool = False
    unlike: str | None = None
    """What the row has that this project cannot express."""


def cases(published: list[dict[str, Any]]) -> Iterator[Case]:
    """Every row that says how much memory was taken."""
    by_source = {item["source"]: item["rows"] for item in published}
    for row in by_source["hf_single_gpu"]:
        yield _bert(row)
    for row in by_source["torchtune_ladder"]:
        yield _torchtune(row)
    for row in by_source["unsloth_max_context"]:
        if row["seq"]:
            yield _longest_context(row)


def _bert(row: dict[str, Any]) -> Case:
    words = row["config"].split()
    accumulates = any(word in ("ga4", "bs1") for word in words)
    changes = {
        "model.path": "arch:bert-large",
        "adapter": "full",
        "attention": "eager",  # the only one that there was
        "batch.micro": 1 if accumulates else 4,
        "batch.effective": 4,
        "precision": "fp16" if "fp16" in words else "fp32",
        "checkpointing": "gc" in words,
        "optim": "adafactor"
        if "adafactor" in words
        else "adamw_8bit"
        if "adam8bit" in words
        else "adamw_torch",
        "trainer": "hf",
    }
    return Case(
        "hf_single_gpu",
        row["config"],
        row["mem"] * MIB,
        "device",
        changes,
        512,
        V100_CONTEXT,
        is_classifier=True,
    )


def _torchtune(row: dict[str, Any]) -> Case:
    names = [
        "baseline", "+packed", "+compile", "+chunked_ce", "+ac", "+opt_in_bwd", "+act_offload", "+adamw8bit",
        "lora", "qlora",
    ]  # fmt: skip
    step = names.index(row["config"])
    adapter = row["config"] in ("lora", "qlora")
    changes = {
        "model.path": "arch:llama-3.2-3b",
        "adapter": "lora" if adapter else "full",
        "lora.target_modules": "all-linear",
        "quantization": "nf4" if row["config"] == "qlora" else "none",
        "precision": "bf16_pure",
        "checkpointing": step >= 4,
        "optim": "adamw_8bit" if step >= 7 and not adapter else "adamw_torch",
        "batch.micro": 2,
        "batch.effective": 2,
        "data.packing": step >= 1,
    }
    missing = {0: "the lengths of its data are not given", 1: None, 2: "a compiler"}
    unlike = missing.get(step, "a compiler and a chunked loss")
    return Case(
        "torchtune_ladder", row["config"], int(row["mem"] * GIB), "peak", changes, 4096, unlike=unlike
    )


def _longest_context(row: dict[str, Any]) -> Case:
    changes = {
        "model.path": "arch:llama-3.1-8b",
        "lora.r": 32,
        "lora.target_modules": "all-linear",
        "quantization": "nf4",
        "precision": "bf16",
        # as peft's prepare_model_for_kbit_training has it: what is not quantised is held in float32
        "model.dtype": "auto",
        "attention": "flash_attention_2",
        "checkpointing": True,
        "optim": "adamw_8bit",
        "batch.micro": 1,
        "batch.effective": 1,
        "data.packing": True,
    }
    unlike = "its own kernels, a chunked loss and offloading" if row["config"] == "unsloth" else None
    name = f"{row['config']} {row['seq']} tokens"
    return Case("unsloth_max_context", name, row["mem"] * GB, "device", changes, row["seq"], unlike=unlike)


def configuration(case: Case) -> Any:
    """The configuration of a case."""
    from benchmarks.memory_cells import configuration as of_cell

    extra = {"data.max_length": case.length, "trial.device": "cuda"}
    return of_cell("-", {**case.changes, **extra})


def classifier(config: Any) -> Any:
    """Two classes on BERT, as the published figures have it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from trainers.memory.fakes import fake_base
    from trainers.model.source import load_config

    class Classifier(torch.nn.Module):
        """Takes labels of tokens, as the loops give them, and trains on one per sequence."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config

        def get_input_embeddings(self) -> Any:
            return self.inner.get_input_embeddings()

        def forward(
            self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **_: Any
        ) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask, labels=labels[:, 0])

    return Classifier(fake_base(config, load_config(config.model), AutoModelForSequenceClassification))


def predicted(case: Case) -> Any:
    """The prediction of a case."""
    from trainers.memory.predict import predict
    from trainers.memory.steps import BatchShape

    shape = BatchShape(case.length, case.is_padded, case.length, case.is_padded, eval_sequences=1)
    return predict(configuration(case), [shape], True, classifier if case.is_classifier else None)


def formulas(case: Case) -> dict[str, int]:
    """Four times the weights, and the closed form."""
    from trainers.model.source import load_config

    config = configuration(case)
    model = load_config(config.model)
    parameters = _parameters(config)
    half = config.precision != "fp32"
    weight = 2 if config.precision == "bf16_pure" or config.model.dtype == "bfloat16" else 4
    hidden, heads, layers = model.hidden_size, model.num_attention_heads, model.num_hidden_layers
    tokens = case.length * config.batch.micro
    per_layer = tokens * hidden * (34 + 5 * heads * case.length / hidden) * (1 if half else 2)
    activations = per_layer * layers
    if config.checkpointing:
        activations = layers * tokens * hidden * (2 if half else 4) + per_layer
    stored = parameters * (0.5 if config.quantization == "nf4" else weight)
    trained = parameters * (2 * weight + _state_bytes(config, weight)) - parameters * weight
    states = stored + (trained if config.adapter == "full" else 0)
    base = case.context_bytes
    return {
        "four_weights": int(4 * parameters * weight + base),
        "closed_form": int(states + activations + base),
    }


def _state_bytes(config: Any, weight: int) -> float:
    return {"adafactor": 0.0, "adamw_8bit": 2.0}.get(config.optim, 2.0 * weight)


def _parameters(config: Any) -> int:
    import torch
    from transformers import AutoModel, initialization

    from trainers.model.source import load_config

    with torch.device("meta"), initialization.no_init_weights():
        return sum(weight.numel() for weight in AutoModel.from_config(load_config(config.model)).parameters())


def measure(case: Case) -> dict[str, Any]:
    """One row of the table."""
    found = predicted(case)
    total = found.peak_bytes if case.metric == "peak" else (found.reserved_bytes or 0) + case.context_bytes
    return {
        "source": case.source,
        "row": case.row,
        "unlike": case.unlike,
        "published_bytes": case.published_bytes,
        "predicted_bytes": total,
        "phase": found.phase,
        "parts": found.parts,
        **formulas(case),
    }


METHODS = ("predicted_bytes", "four_weights", "closed_form")


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """Errors by source over the rows that can be expressed, then every row."""
    text = ["| source | rows | predicted, mean | worst | four times weights, mean | closed form, mean |"]
    text.append("|---|---:|---:|---:|---:|---:|")
    for source in dict.fromkeys(row["source"] for row in rows):
        own = [row for row in rows if row["source"] == source and not row["unlike"]]
        means = [statistics.mean(abs(error(row, method)) for row in own) for method in METHODS]
        worst = max(abs(error(row, "predicted_bytes")) for row in own)
        text.append(
            f"| {source} | {len(own)} | {means[0]:.1%} | {worst:.1%} | {means[1]:.1%} | {means[2]:.1%} |"
        )
    text += [
        "",
        "| source | row | published GiB | predicted GiB | error | 4x weights | closed form | unlike |",
    ]
    text.append("|---|---|---:|---:|---:|---:|---:|---|")
    for row in rows:
        errors = " | ".join(f"{error(row, method):+.1%}" for method in METHODS)
        text.append(
            f"| {row['source']} | {row['row']} | {row['published_bytes'] / GIB:.2f} | "
            f"{row['predicted_bytes'] / GIB:.2f} | {errors} | {row['unlike'] or ''} |"
        )
    return text


def error(row: dict[str, Any], method: str) -> float:
    """Relative error of a method on a row."""
    return float(row[method] / row["published_bytes"] - 1)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/memory_published.json")
    asked = parser.parse_args()
    published = json.loads((ROOT / "benchmarks/published_memory.json").read_text())
    rows = []
    for case in cases(published):
        rows.append(measure(case))
        print(f"{case.source} {case.row}: {error(rows[-1], 'predicted_bytes'):+.1%}", flush=True)
    asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    asked.out.with_suffix(".md").write_text(
        "\n".join(["# Predicted and published peak memory", "", *tables(rows), ""])
    )
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
