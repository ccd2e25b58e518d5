"""Whether a model can be fine-tuned here: everything that its folder tells without loading its weights."""

from __future__ import annotations

from pathlib import Path

from sweeper.contract.config import ModelConfig
from sweeper.contract.json_files import read_json
from sweeper.contract.trial import Problem
from trainers.checkpoint.causal import find_causality_problems
from trainers.checkpoint.files import (
    find_file_problems,
    find_infinite_weights,
    list_weight_files,
    local_folder,
    read_headers,
)
from trainers.checkpoint.quantized import find_storage_problems
from trainers.checkpoint.weights import find_weight_problems
from trainers.model.source import (
    LOADING_ERRORS,
    empty_model,
    load_config,
    load_tokenizer,
    model_path,
    shorten,
)

LOCAL_PATHS = ("/", "./", "../")
"""How a path begins that can be no hub id."""


def find_model_problems(model: ModelConfig, cache_dir: Path) -> list[Problem]:
    """Everything that keeps this model from being trained."""
    if model.path.startswith(LOCAL_PATHS) and not Path(model.path).exists():
        rule, remedy = "the model's folder must exist", "correct the path, or give a hub id"
        return [Problem(rule, "model.path", model.path, remedy)]
    try:
        path = model_path(model)
    except ValueError as error:
        return [_unloadable(model, error)]
    folder = local_folder(model, path)
    is_local = Path(path).is_dir()
    if (
        is_local
        and (Path(path) / "config.json").is_file()
        and (lacking := find_file_problems(model.path, Path(path)))
    ):
        return lacking
    try:
        model_config = load_config(model)
        if foreign := find_causality_problems(model.path, model_config, model.trust_remote_code):
            return foreign
        load_tokenizer(model)
        empty = empty_model(model)
    except LOADING_ERRORS as error:
        return [_unloadable(model, error)]
    if stored := find_storage_problems(model.path, model_config):
        return stored
    # a hub id whose weights were not fetched yet is taken at its word until it is loaded
    if folder is None or (not is_local and find_file_problems(model.path, folder)):
        return []
    files = list_weight_files(folder)
    misfits = find_weight_problems(model.path, model_config, empty, read_headers(files))
    return misfits or find_infinite_weights(model.path, files, cache_dir)


def _unloadable(model: ModelConfig, error: BaseException) -> Problem:
    if not model.trust_remote_code and _brings_code(model):
        rule = "the model brings Python code of its own, which runs only where its author is trusted"
        return Problem(rule, "model.path", model.path, "read the code, then set model.trust_remote_code=true")
    return Problem(
        f"the model must be a causal language model that transformers can load: {shorten(error)}",
        "model.path",
        model.path,
        "give a folder written by save_pretrained, or a hub id (with model.revision, and "
        "model.trust_remote_code=true if it brings code)",
    )


def _brings_code(model: ModelConfig) -> bool:
    """Whether the configuration names classes that come with the model. Called for one that did not load."""
    folder = local_folder(model, model.path)
    file = folder / "config.json" if folder else None
    try:
        return file is not None and "auto_map" in read_json(file)
    except (OSError, ValueError):
        return False
