"""A checkpoint is trained on as it was meant, or refused before the first trial."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaModel

from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import Problem, TrialResult
from tests.support.samples import SMALL_MODELS, save_model
from trainers.checkpoint.problems import find_model_problems
from trainers.checkpoint.weights import MadeUpWeightsError
from trainers.methods import quantization
from trainers.methods.precision import device
from trainers.model.source import load_config
from trainers.setup import load_base

MakeConfig = Callable[..., Config]
RunTrial = Callable[..., tuple[TrialResult, TrialFolder]]
Weights = dict[str, torch.Tensor]
QUANTIZED = {
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "nf4": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    ),
}  # fmt: skip


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def problems(make_config: MakeConfig, tmp_path: Path) -> Callable[[Path], list[Problem]]:
    return lambda path: find_model_problems(
        make_config(**{"model.path": str(path)}).model, tmp_path / "cache"
    )


Problems = Callable[[Path], list[Problem]]


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantised_checkpoint_trains_as_its_source_quantised_anew(
    kind: str, model: Path, tiny_model: Path, problems: Problems, run_trial: RunTrial
) -> None:
    source = AutoModelForCausalLM.from_pretrained(
        str(tiny_model), quantization_config=QUANTIZED[kind], device_map={"": "cpu"}, dtype=torch.float32
    )
    source.save_pretrained(model)
    assert problems(model) == []
    stored, _ = run_trial(**{"model.path": str(model)})
    anew, _ = run_trial(quantization=kind)
    assert stored.measurements.eval_loss_before == anew.measurements.eval_loss_before
    assert stored.measurements.eval_loss == anew.measurements.eval_loss
    assert stored.measurements.total_parameters == anew.measurements.total_parameters
    assert (stored.active["base_quantization"], stored.active["unquantized_linears"]) == (kind, [])
    assert kind in stored.definitions["quantization"]


def edit_config(model: Path, **values: Any) -> None:
    file = model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("method", ["fp8", "gptq", "awq", "compressed-tensors", "mxfp4", "hqq"])
def test_quantisation_that_is_not_trained_through_is_refused(
    method: str, model: Path, problems: Problems
) -> None:
    edit_config(model, quantization_config={"quant_method": method, "bits": 4})
    (problem,) = problems(model)
    assert (problem.key, problem.value) == ("model.path", str(model))
    assert method in problem.rule and "quantization=int8 or nf4" in problem.remedy


def test_nothing_is_quantised_twice_or_trained_below_its_adapter(
    model: Path, make_config: MakeConfig
) -> None:
    asked = make_config(quantization="nf4", adapter="full", **{"model.path": str(model)})
    assert list(quantization.METHOD.check_on_model(asked)) == []
    edit_config(model, quantization_config={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    found = {problem.key: problem.value for problem in quantization.METHOD.check_on_model(asked)}
    assert found == {"quantization": "nf4", "adapter": "full"}


def drop_layer(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if "layers.1.mlp" not in name}


def drop_head(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}


def prefix_names(weights: Weights) -> Weights:
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def widen_embeddings(weights: Weights) -> Weights:
    return {**weights, "model.embed_tokens.weight": torch.zeros(600, 128)}


def store_codes(weights: Weights) -> Weights:
    name = "model.layers.0.mlp.up_proj.weight"
    return {**weights, name: weights[name].to(torch.float8_e4m3fn)}


def diverge(weights: Weights) -> Weights:
    spoilt = weights["model.layers.1.mlp.up_proj.weight"].clone()
    spoilt[3, 5] = torch.nan
    return {**weights, "model.layers.1.mlp.up_proj.weight": spoilt}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop_layer, "lacks 3 of 21: model.layers.1.mlp"),
        (drop_head, "lacks 1 of 21: lm_head.weight"),
        (prefix_names, "lacks 21 of 21: .*it holds others: module"),
        (widen_embeddings, r"model\.embed_tokens\.weight is \[600, 128\] instead of \[512, 128\]"),
        (store_codes, "F8_E4M3"),
        (diverge, r"layers\.1\.mlp\.up_proj\.weight holds NaN"),
    ],
)
def test_weights_that_would_be_made_up_are_named(
    spoil: Callable[[Weights], Weights], said: str, model: Path, problems: Problems
) -> None:
    file = model / "model.safetensors"
    save_file(spoil(load_file(file)), file, metadata={"format": "pt"})
    (problem,) = problems(model)
    assert problem.key == "model.path" and problem.remedy
    assert re.search(said, problem.rule), problem.rule


def test_model_that_was_loaded_with_made_up_weights_is_not_trained(
    model: Path, make_config: MakeConfig
) -> None:
    file = model / "model.safetensors"
    save_file(drop_layer(load_file(file)), file, metadata={"format": "pt"})
    config = make_config(**{"model.path": str(model)})
    with pytest.raises(MadeUpWeightsError, match=r"layers\.1\.mlp.*complete checkpoint"):
        load_base(config, device(config))


def leave_pointer(model: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
    (model / "model.safetensors").write_text(text)


def cut_short(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def lose_shard(model: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors").rename(model / names["a"])
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def name_variant(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model.fp16.safetensors")


def pickle(model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "said", "remedy"),
    [
        (leave_pointer, "pointer of Git LFS", "git lfs pull"),
        (cut_short, "cut or damaged", "download the file again"),
        (lose_shard, "model-00002-of-00002.safetensors is not", "missing files"),
        (name_variant, "are in model.fp16.safetensors", "rename"),
        (pickle, "pytorch_model.bin could run code", "convert it once"),
    ],
)
def test_files_that_hold_no_weights_are_told_apart(
    spoil: Callable[[Path], None], said: str, remedy: str, model: Path, problems: Problems
) -> None:
    spoil(model)
    (problem,) = problems(model)
    assert problem.key == "model.path" and said in problem.rule and remedy in problem.remedy


def test_pickled_weights_are_converted_by_the_command_that_is_offered(
    model: Path, problems: Problems, capfd: pytest.CaptureFixture[str]
) -> None:
    pickle(model)
    (problem,) = problems(model)
    exec(problem.remedy.partition('python -c "')[2].removesuffix('"'), {})
    assert problems(model) == []


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_whole_checkpoint_of_any_architecture_is_taken(name: str, tmp_path: Path, problems: Problems) -> None:
    """Tied weights, experts that are stacked when they are loaded, and packed projections included."""
    save_model(SMALL_MODELS[name], tmp_path / name)
    assert problems(tmp_path / name) == []


def test_base_model_without_a_head_of_its_own_is_whole_where_the_head_is_tied(
    model: Path, problems: Problems, make_config: MakeConfig
) -> None:
    tied: Any = load_config(make_config().model)
    tied.tie_word_embeddings = True
    LlamaModel(tied).save_pretrained(model)  # names without the prefix `model.`
    assert problems(model) == []
