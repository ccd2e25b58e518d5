"""What is done with a finished model: merge the adapter into the base, register it with MLflow.

`main` serves the folder of a production run: it reads `publish.json` and writes `published.json`. The
tracking store is taken from MLFLOW_TRACKING_URI, since an address may hold a password. It is a process of
its own: what fails here costs no training.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sweeper.contract.config import Config, from_dict
from sweeper.contract.folder import ProductionFolder
from sweeper.contract.json_files import read_json, write_json
from trainers.checkpoint.quantized import read_quantization
from trainers.meters.environment import quiet_libraries
from trainers.methods.precision import weights_dtype
from trainers.model.source import base_source

COMPARED_TOKENS = 16
LARGEST_CHANGE = 0.1
"""Largest difference between logits of the merged model and of base and adapter, as a share of their standard
deviation: bfloat16 has 8 bits, so that merging rounds each weight by up to 0.4 %; a wrong merge changes by 1
and more."""
REQUIREMENTS = ("torch", "transformers", "peft", "accelerate", "safetensors")
"""What a registered model needs to be loaded; pinned to the versions that made it."""


def main(folder: Path) -> None:
    """Answer `publish.json` with `published.json`."""
    quiet_libraries()
    production = ProductionFolder(folder)
    config, asked = from_dict(production.read_spec().config), read_json(production.publish)
    done: dict[str, Any] = {"merged": None, "model_uri": None}
    with _whole_model(production, config, keep=asked["merge"]) as weights:
        if asked["merge"] and config.adapter == "lora":
            done["merged"] = str(weights.relative_to(folder))
        if asked["register"]:
            done["model_uri"] = _register(weights, production, **asked["register"])
    write_json(production.published, done)


@contextmanager
def _whole_model(production: ProductionFolder, config: Config, keep: bool) -> Iterator[Path]:
    """A folder with all weights of the model, which needs nothing else to be loaded."""
    if config.adapter == "full":
        yield production.model
    elif production.merged.exists():
        yield production.merged
    elif keep:
        making = production.path / ".merging"
        shutil.rmtree(making, ignore_errors=True)
        merge(production.model, config, making)
        os.rename(making, production.merged)
        yield production.merged
    else:
        with tempfile.TemporaryDirectory(dir=production.path, prefix=".merging-") as name:
            merge(production.model, config, Path(name))
            yield Path(name)


def merge(adapter: Path, config: Config, folder: Path) -> None:
    """Write the base with the adapter merged into it, both in the type of the base weights.

    The base is loaded anew and unquantised: merging into 4-bit weights would round the update away.
    """
    source = base_source(config.model)
    base = AutoModelForCausalLM.from_pretrained(**source, dtype=weights_dtype(config), use_safetensors=True)
    if read_quantization(base.config) is not None:
        base = base.dequantize()
    adapted: Any = PeftModel.from_pretrained(base, str(adapter)).eval()
    expected = _logits(adapted)
    merged: Any = adapted.merge_and_unload()
    merged.save_pretrained(str(folder))
    saved = AutoModelForCausalLM.from_pretrained(str(folder), dtype=weights_dtype(config))
    _refuse_other_logits(expected, _logits(saved.eval()))
    AutoTokenizer.from_pretrained(str(adapter)).save_pretrained(str(folder))


def _logits(model: Any) -> torch.Tensor:
    """Logits of a fixed batch of random tokens."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = torch.randint(vocabulary, (2, COMPARED_TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens).logits
    return logits.float()


def _refuse_other_logits(expected: torch.Tensor, found: torch.Tensor) -> None:
    """Raise ValueError when merging has made another model of it."""
    change = float((found - expected).abs().max() / expected.std())
    if not change <= LARGEST_CHANGE:
        raise ValueError(
            "the merged model must give the logits of base and adapter, but they differ by "
            f"{change:.2g} of their standard deviation (allowed: {LARGEST_CHANGE}): an adapted layer shares "
            "its weights with another (tied embeddings), or the type of the weights is too coarse; "
            "leave the embeddings and the output head out of lora.target_modules and train again"
        )


def _register(
    weights: Path, production: ProductionFolder, name: str, run_id: str, tags: dict[str, str]
) -> str:
    """Log the model to its run and register it; its address in the registry."""
    import mlflow

    with mlflow.start_run(run_id=run_id):
        for file in sorted(production.model.iterdir()):
            if file.is_file() and not file.name.startswith("model"):  # all weights go with the model itself
                mlflow.log_artifact(str(file), "production")
        info = mlflow.transformers.log_model(
            # loaded, since mlflow 3.17 cannot take a folder with transformers 5
            transformers_model={
                "model": AutoModelForCausalLM.from_pretrained(str(weights), dtype="auto"),
                "tokenizer": AutoTokenizer.from_pretrained(str(weights)),
            },
            name="model",
            task="text-generation",
            registered_model_name=name,
            pip_requirements=[f"{library}=={version(library).partition('+')[0]}" for library in REQUIREMENTS],
        )
    client = mlflow.MlflowClient()
    for key, value in tags.items():
        client.set_model_version_tag(name, str(info.registered_model_version), key, value)
    return f"models:/{name}/{info.registered_model_version}"
