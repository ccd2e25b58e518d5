"""Which cells cannot fit because another one did not: a partial order of memory.

A cell is skipped when one that ran out of memory needs at most as much in every respect. Every relation
below must hold for any model: where a method trades one kind of memory for another (quantisation,
autocast, an adapter), cells are not compared and the cell is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sweeper.contract.config import Config, from_dict
from sweeper.contract.scopes import ABOUT_THE_STUDY
from sweeper.contract.stamps import digest
from sweeper.contract.trial import Outcome, TrialResult
from sweeper.study.observer import Observer
from sweeper.study.records import TrialRecord

INDIFFERENT = {
    "lora": ("alpha", "use_rslora"),
    "train": (
        "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2",
        "adam_epsilon",
    ),
    "evaluate": ("every_steps",),
    "trial": ("timeout_s", "warmup_steps", "keep_adapter", "require_idle_device"),
}  # fmt: skip
"""Options that change no tensor's size."""

COMPARED = {
    "lora": ("r",),
    "batch": ("micro", "effective", "accumulation"),
    "data": ("max_length",),
    "train": ("steps",),
    "evaluate": ("batch",),
    "trial": ("memory_limit_gib", "probe_steps"),
}
"""Options that the relations below look at; all others must be equal."""

OPTIMIZER_ABOVE = {
    "paged_adamw_8bit": ("adamw_bnb_8bit", "adamw_8bit", "adamw_torch_fused", "adamw_torch"),
    "adamw_bnb_8bit": ("adamw_8bit", "adamw_torch_fused", "adamw_torch"),
    "adamw_8bit": ("adamw_bnb_8bit", "adamw_torch_fused", "adamw_torch"),
    "adamw_torch_fused": ("adamw_torch",),
    "adafactor": ("adamw_torch_fused", "adamw_torch"),
}
"""Optimizer -> those that need at least as much while they step.

State per fp32 parameter: 8-bit AdamW 2 bytes and its quantisation constants, AdamW 8 bytes, Adafactor
without a first moment next to none (its file in bitsandbytes, torch.optim and transformers). Temporary
memory: the fused and the 8-bit kernels have none, torch's `foreach` AdamW has some, and Adafactor two
fp32 tensors of the size of the largest parameter, 8 bytes for each of its elements, which AdamW's state
for that parameter alone outweighs. With 16-bit parameters AdamW's state is 4 bytes and Adafactor holds two
more copies: see `_optimizers_compare`."""

WEIGHT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Proof:
    """A trial that ran out of memory."""

    number: int
    label: str
    config: Config
    steps: int
    """Optimizer steps that it finished before."""
    loading: bool
    """It ran out while the model was loaded, before anything of the batch was there."""


class Dominance(Observer):
    """The cells that are known not to fit, and those that follow from them."""

    def __init__(self) -> None:
        self._proofs: dict[str, list[Proof]] = {}
        self._loading: dict[str, list[Proof]] = {}

    def on_end(self, trial: TrialRecord) -> None:
        """Learn from a trial that has ended."""
        if trial.result is None or trial.result.outcome is not Outcome.OUT_OF_MEMORY:
            return
        config = from_dict(trial.spec.config)
        if trial.spec.devices is not None and config.trial.require_idle_device == "ignore":
            return  # another process may have held the memory that was missing
        measured = trial.result.measurements
        steps, loading = measured.steps or 0, measured.load_time_s is None
        proof = Proof(trial.number, trial.label, config, steps, loading)
        _add(self._proofs.setdefault(_bucket(config, COMPARED), []), proof, _needs_as_much)
        if loading:
            _add(self._loading.setdefault(_loading_bucket(config), []), proof, _loads_as_much)

    def verdict(self, config: Config) -> TrialResult | None:
        """What a trial of this configuration would end as; None when it might fit."""
        proof = self._proof(config)
        if proof is None:
            return None
        return TrialResult(
            Outcome.PREDICTED_OOM,
            f"trial {proof.number} ran out of memory, and this cell needs at least as much in every respect "
            f"({proof.label})",
        )

    def _proof(self, config: Config) -> Proof | None:
        for proof in self._proofs.get(_bucket(config, COMPARED), ()):
            if _needs_as_much(config, proof):
                return proof
        for proof in self._loading.get(_loading_bucket(config), ()):
            if _loads_as_much(config, proof):
                return proof
        return None


Relation = Callable[[Config, Proof], bool]


def _add(proofs: list[Proof], new: Proof, relation: Relation) -> None:
    """Keep only proofs that no other one implies: their number stays small."""
    if not any(relation(new.config, proof) for proof in proofs):
        proofs[:] = [proof for proof in proofs if not relation(proof.config, new)] + [new]


def _bucket(config: Config, compared: dict[str, tuple[str, ...]]) -> str:
    """Equal for configurations that agree in everything that must be equal."""
    return digest(_without(config, compared, drop=("optim", "checkpointing")))


def _loading_bucket(config: Config) -> str:
    """While a model is loaded nothing of batches, evaluation or checkpointing is there yet."""
    plain = _without(config, COMPARED, drop=("optim", "checkpointing", "precision", "trainer", "attention"))
    plain["model"].pop("dtype")
    for section in ("batch", "evaluate", "train"):
        plain.pop(section)
    return digest([plain, config.optim])


def _without(config: Config, compared: dict[str, tuple[str, ...]], drop: Iterable[str]) -> dict[str, Any]:
    plain = {name: value for name, value in config.to_dict().items() if name not in ABOUT_THE_STUDY}
    for names in (INDIFFERENT, compared):
        for section, options in names.items():
            for option in options:
                plain[section].pop(option)
    for name in drop:
        plain.pop(name)
    return plain


def _needs_as_much(config: Config, proof: Proof) -> bool:
    """Whether the configuration needs at least what the proof needed (same bucket)."""
    return all(relation(config, proof) for relation in RELATIONS)


def _loads_as_much(config: Config, proof: Proof) -> bool:
    return (
        _weight_bytes(config) >= _weight_bytes(proof.config)
        and config.lora.r >= proof.config.lora.r
        and config.data.max_length >= proof.config.data.max_length
        and _limit(config, proof)
    )


def _weight_bytes(config: Config) -> int:
    """Bytes per weight as loaded."""
    return WEIGHT_BYTES[config.held_dtype]


def _limit(config: Config, proof: Proof) -> bool:
    own, other = config.trial.memory_limit_gib, proof.config.trial.memory_limit_gib
    return other is None or (own is not None and own <= other)


def _sizes(config: Config, proof: Proof) -> bool:
    """At least as many rows, at least as long, of at least the same examples, with as large an adapter."""
    own, other = config, proof.config
    return (
        own.batch.sequences >= other.batch.sequences
        and _examples(own, other)
        and (own.evaluate.batch or own.batch.sequences) >= (other.evaluate.batch or other.batch.sequences)
        and _lengths(own, other)
        and own.lora.r >= other.lora.r
    )


def _examples(own: Config, other: Config) -> bool:
    """A token budget is reached at the end of a step: only steps that end where the other's do are sure to
    take all of the other's examples."""
    mine, others = own.batch.effective or 0, other.batch.effective or 1
    return mine >= others and (own.train.token_budget is None or mine % others == 0)


def _lengths(own: Config, other: Config) -> bool:
    """Where the loss counts on completions alone, an example that is cut before its completion is left out:
    another length makes other batches."""
    if own.data.completion_only_loss:
        return own.data.max_length == other.data.max_length
    return own.data.max_length >= other.data.max_length


def _gradients(config: Config, proof: Proof) -> bool:
    """With accumulation the gradients lie beside the activations of later passes; without, they do not."""
    return config.batch.accumulation != 1 or proof.config.batch.accumulation == 1


def _work(config: Config, proof: Proof) -> bool:
    """It gets as far as the step at which the other ran out, over the same examples."""
    probes = (config.trial.probe_steps, proof.config.trial.probe_steps)
    if probes[0] is None and probes[1] is not None:  # a probe's examples are among those of the full training
        return config.train.steps == proof.config.train.steps
    if probes[0] is not None:  # the longest batches first: the steps before do not matter
        return probes[0] == probes[1] and config.train.steps == proof.config.train.steps
    steps = config.train.steps
    return (steps is None and proof.config.train.steps is None) or (steps or 0) > proof.steps


def _checkpointing(config: Config, proof: Proof) -> bool:
    return proof.config.checkpointing or not config.checkpointing


def _optimizers_compare(config: Config, proof: Proof) -> bool:
    mine, other = config.optim, proof.config.optim
    if mine == other:
        return True
    if _trains_16_bit(config) or config.train.optim_args is not None:
        return False
    return mine in OPTIMIZER_ABOVE.get(other, ())


def _trains_16_bit(config: Config) -> bool:
    """Whether the optimizer updates 16-bit parameters (an adapter's are fp32 unless all is bf16)."""
    is_held_so = config.adapter == "full" and config.held_dtype != "float32"
    return config.precision == "bf16_pure" or is_held_so


RELATIONS: tuple[Relation, ...] = (
    _limit,
    _sizes,
    _gradients,
    _work,
    _checkpointing,
    _optimizers_compare,
)
