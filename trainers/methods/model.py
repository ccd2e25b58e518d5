"""The tokenizer, the base model as it is to be held and computed, and what can be known of it without
its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sweeper.contract.config import Config, ModelConfig
from trainers.methods.precision import compute_dtype, weights_dtype

EMBEDDED = "embedded:tiny"
ARCHITECTURE = "arch:"
"""Beginning of a `model.path` that names a shipped architecture: a configuration without weights."""


ARCHITECTURES = Path(__file__).parents[1] / "architectures"


CHECKPOINTING = {"use_reentrant": False}
"""Arguments of `torch.utils.checkpoint.checkpoint`: reentrant checkpointing needs inputs with gradients."""


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


def load_base(config: Config, device: torch.device) -> PreTrainedModel:
    """The base model on its device, quantised and with the attention that was asked for."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        **base_source(config.model),
        dtype=weights_dtype(config),
        attn_implementation=config.attention,
        quantization_config=quantization(config),
        device_map={"": str(device)},
        use_safetensors=True,
    )
    return configure(model, config)


def configure(model: PreTrainedModel, config: Config) -> PreTrainedModel:
    """Set a base model that has its weights up for training."""
    model.config.use_cache = False
    if config.quantization == "nf4":
        _hold_4bit_layers(model)
    if config.checkpointing:
        older = model.gradient_checkpointing_enable  # the name in older versions
        getattr(model, "activation_checkpointing_enable", older)(CHECKPOINTING)
    return model


def quantization(config: Config) -> BitsAndBytesConfig | None:
    """int8 is LLM.int8() (arXiv 2208.07339), nf4 is QLoRA's type with double quantisation
    (arXiv 2305.14314)."""
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if config.quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype(config),
        )
    return None


def _hold_4bit_layers(model: nn.Module) -> None:
    """Keep bitsandbytes' 4-bit layers as they were asked for; their first use may change them."""
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]

    for module in model.modules():
        if isinstance(module, Linear4bit):
            # else the compute type follows the input: float32 after a norm, whatever autocast says
            module.compute_type_is_set = True
            # else an evaluation on a CPU with AVX512-BF16 repacks the weights into an inference format
            # through which no gradient flows, and training goes on without learning
            module.support_avx512bf16_for_cpu = False


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Trainable and total parameters; a packed 4-bit weight counts each of its logical elements."""
    sizes = [(logical_elements(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)


def logical_elements(parameter: torch.Tensor) -> int:
    """Elements of a weight; those that a packed one stands for."""
    packed = getattr(parameter, "quant_state", None)
    return int(packed.shape.numel()) if packed is not None else parameter.numel()
