"""A merged model is the model that was trained, or is not published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sweeper.contract.config import Config
from tests.support.samples import SMALL_MODELS, save_model, tokenizer
from trainers.methods.adapters import save_adapter
from trainers.methods.precision import device
from trainers.production.publish import merge
from trainers.setup import build_model


@pytest.fixture
def adapted(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., tuple[Path, Config, Any]]:
    """Folder, configuration and logits of an adapter that changes a model with tied embeddings."""

    def make(**overrides: Any) -> tuple[Path, Config, Any]:
        save_model(SMALL_MODELS["llama_tied"], tmp_path / "base")
        config = make_config(**{"model.path": str(tmp_path / "base"), **overrides})
        model: Any = build_model(config, device(config))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name or "lora_embedding_A" in name or "lora_embedding_B" in name:
                    weight.normal_(std=0.2)
        save_adapter(model, tmp_path / "adapter")
        tokenizer().save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", config, model.eval()(input_ids=torch.arange(9)[None]).logits

    return make


@pytest.mark.parametrize("precision", ["fp32", "bf16_pure"])
def test_merged_weights_give_the_logits_of_base_and_adapter(
    precision: str, adapted: Callable[..., tuple[Path, Config, Any]], tmp_path: Path
) -> None:
    adapter, config, logits = adapted(precision=precision)
    merge(adapter, config, tmp_path / "merged")
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    difference = (merged(input_ids=torch.arange(9)[None]).logits - logits).abs().max()
    assert difference < 1e-5 if precision == "fp32" else difference < 0.1 * logits.float().std()


@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings:UserWarning")
def test_merging_into_tied_embeddings_publishes_nothing(
    adapted: Callable[..., tuple[Path, Config, Any]], tmp_path: Path
) -> None:
    adapter, config, _ = adapted(**{"lora.target_modules": ("embed_tokens",)})
    with pytest.raises(ValueError, match=r"tied embeddings.*lora\.target_modules"):
        merge(adapter, config, tmp_path / "merged")
