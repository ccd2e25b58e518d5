"""Where a model comes from: its files, tokenizer and configuration, and what is known without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sweeper.contract.config import ModelConfig

EMBEDDED = "embedded:tiny"
ARCHITECTURE = "arch:"
"""Beginning of a `model.path` that names a shipped architecture: a configuration without weights."""


ARCHITECTURES = Path(__file__).parents[1] / "architectures"
LOADING_ERRORS = (OSError, ValueError, ImportError, KeyError)
"""What `from_pretrained` and `from_config` raise for a model that cannot be had."""


def model_path(model: ModelConfig) -> str:
    """Local folder or hub id of the model. Raises ValueError for an architecture that is not shipped."""
    if model.path == EMBEDDED:
        from trainers import embedded

        return str(embedded.model_path())
    if model.path.startswith(ARCHITECTURE):
        return str(_architecture(model.path.removeprefix(ARCHITECTURE)))
    return model.path


def _architecture(name: str) -> Path:
    known = architectures()
    if name not in known:
        raise ValueError(f"`model.path=arch:…` must name a shipped architecture, but got {name!r}: {known}")
    return ARCHITECTURES / name


def architectures() -> list[str]:
    """Names of the shipped architectures."""
    return sorted(folder.name for folder in ARCHITECTURES.iterdir() if (folder / "config.json").is_file())


def has_weights(model: ModelConfig) -> bool:
    """Whether there are weights to train: a hub id is taken at its word."""
    folder = Path(model_path(model))
    return not folder.is_dir() or any(folder.glob("*.safetensors"))


def base_source(model: ModelConfig) -> dict[str, Any]:
    """Arguments that every `from_pretrained` of this model takes."""
    revision = None if Path(model_path(model)).is_dir() else model.revision
    return {
        "pretrained_model_name_or_path": model_path(model),
        "revision": revision or "main",
        "trust_remote_code": model.trust_remote_code,
    }


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """Raises OSError or ValueError when there is none."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**base_source(model))
    return tokenizer


def load_config(model: ModelConfig) -> PretrainedConfig:
    """Raises OSError or ValueError when there is none."""
    loaded: PretrainedConfig = AutoConfig.from_pretrained(**base_source(model))
    return loaded


def max_positions(model_config: PretrainedConfig) -> int | None:
    """Longest sequence that the model was made for; None when its configuration does not say."""
    found = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


def empty_model(model: ModelConfig, attention: str | None = None) -> PreTrainedModel:
    """The model without weights (meta device). Raises ValueError or ImportError when its class does not
    support `attention`."""
    with init_empty_weights():
        built: PreTrainedModel = AutoModelForCausalLM.from_config(
            load_config(model),
            trust_remote_code=model.trust_remote_code,
            **({"attn_implementation": attention} if attention else {}),
        )
    return built


def shorten(error: BaseException) -> str:
    """The beginning of a library's message, on one line."""
    return " ".join(str(error).split())[:300]
