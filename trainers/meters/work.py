"""The floating-point operations of one optimizer step, from the model as it is built.

Convention: a multiplication and an addition are two operations. Per token, a linear weight takes 2 forward,
2 for the gradient of its input, and 2 for its own where it is trained: 6N for a full fine-tune and 4N for
LoRA over a frozen base (arXiv 2001.08361, section 2.1). Attention between all pairs of tokens takes 4·S·d
per layer forward and twice that backward, not halved for a causal mask (arXiv 2204.02311, appendix B).
Embedding look-ups count nothing. With checkpointing the executed operations hold a second forward pass
(arXiv 2205.05198, section 4); those of the model do not.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers.pytorch_utils import Conv1D

from sweeper.contract.config import Config
from trainers.data.batches import batch_sizes
from trainers.methods import METHODS
from trainers.methods.optimizers import state_bytes
from trainers.model.layers import logical_elements


def step_work(
    model: nn.Module, optimizer: Optimizer, config: Config, tokens_per_step: float, length: float
) -> dict[str, float]:
    """What a step of `tokens_per_step` tokens, padding included, takes: `flops` executed, `model_flops`
    needed, `forward_flops` of its forward passes alone, and `optimizer_bytes` moved."""
    linear, trained = _weights(model)
    attention = 4 * length * _attention_width(model)
    forward = 2 * linear + attention
    needed = forward + forward + attention + 2 * trained
    executed = needed + forward * sum(method.cost.repeated_forward(config) for method in METHODS)
    return {
        "flops": executed * tokens_per_step,
        "model_flops": needed * tokens_per_step,
        "forward_flops": forward * tokens_per_step,
        "optimizer_bytes": float(_optimizer_bytes(model, optimizer)),
        "passes": float(batch_sizes(config.batch).accumulation),
        "padded_tokens": float(tokens_per_step),
    }


def _optimizer_bytes(model: nn.Module, optimizer: Optimizer) -> int:
    """What an optimizer step moves: it reads gradients, and reads and writes weights and state, once each."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return 3 * sum(weight.nbytes for weight in trained) + 2 * state_bytes(optimizer)


def _weights(model: nn.Module) -> tuple[int, int]:
    """Elements of all linear weights, and of the trained ones. Shared ones count where they multiply."""
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    sizes = [(logical_elements(weight), weight.requires_grad) for weight in weights]
    return sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)


def _attention_width(model: Any) -> int:
    """Layers times the width of all their query heads. A decoder's layer beside an encoder attends twice."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    heads = getattr(config, "num_attention_heads", 0) or 0
    width = _any(config, "head_dim", "d_kv") or (config.hidden_size // heads if heads else 0)
    layers = getattr(config, "num_hidden_layers", 0) or 0
    if getattr(config, "is_encoder_decoder", False):
        layers += 2 * _any(config, "num_decoder_layers", "decoder_layers")
    return int(layers * heads * width)


def _any(config: Any, *names: str) -> int:
    return next((found for name in names if (found := getattr(config, name, None))), 0)
