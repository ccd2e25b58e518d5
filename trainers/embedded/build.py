"""Builds the embedded model and data again, in this package's folder: `python -m trainers.embedded.build`.

Data and tokenizer come out byte for byte the same; the weights up to the rounding of the machine's
arithmetic. Pre-training takes some minutes on 2 cores: `--data-only` leaves the model alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from trainers.embedded import data_path, general, general_path, model_path, transport
from trainers.embedded.pretraining import POSITIONS, SEQUENCE, corpus_loss, new_model, packed, pretrain
from trainers.embedded.tokenization import train_tokenizer


def json_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """The records as JSON Lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def data_files(held_out: Iterable[str]) -> dict[Path, bytes]:
    """What each data file holds: both splits of the dispatch set, and the held-out general text."""
    return {
        data_path("train"): json_lines(map(dataclasses.asdict, transport.split("train"))),
        data_path("eval"): json_lines(map(dataclasses.asdict, transport.split("eval"))),
        general_path(): json_lines({"text": text} for text in held_out),
    }


def build_data(held_out: Iterable[str]) -> None:
    """Write the data files."""
    for path, content in data_files(held_out).items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def build_model(documents: list[str], held_out: list[str], report: Callable[[str], None]) -> None:
    """Train tokenizer and model on the general corpus; weights are stored as bfloat16."""
    tokenizer = train_tokenizer(documents, max_length=POSITIONS)
    model = new_model(tokenizer)
    pretrain(model, packed(documents, tokenizer, SEQUENCE), report)
    model.bfloat16().save_pretrained(model_path())
    (model_path() / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner alone
    tokenizer.save_pretrained(model_path())
    loss = corpus_loss(model.float(), packed(held_out, tokenizer, SEQUENCE))
    report(f"{model.num_parameters():,} parameters, held-out loss {loss:.3f} nats per token")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-only", action="store_true", help="write the data, leave the model alone")
    documents, held_out = general.corpus()
    data_only = parser.parse_args().data_only
    build_data(held_out)
    if not data_only:
        build_model(documents, held_out, print)


if __name__ == "__main__":
    main()
