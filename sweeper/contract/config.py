"""Every option of `sweeper`: its name, type, default and meaning.

The composed Hydra configuration is validated against these classes (`sweeper.config`), written into each
trial's `spec.json`, and read back by the trial. Names follow `transformers.TrainingArguments` and
`peft.LoraConfig` where those have one. The options of the study stand in `study_config.py`.
Standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from sweeper.contract.study_config import (
    BudgetConfig,
    ConstraintConfig,
    Fidelity,
    HardwareConfig,
    MemoryConfig,
    ObjectiveConfig,
    ProductionConfig,
    Pruner,
    RepeatsConfig,
    SearchConfig,
    SpaceConfig,
    Strategy,
    StudyConfig,
    TrackingConfig,
)

MISSING = "???"
"""OmegaConf's mark for a value that the user must give."""
DEFAULT_EFFECTIVE_BATCH = 16
DEFAULT_STEPS = 20
AUTOCAST = {"fp16": "float16", "bf16": "bfloat16"}
"""Precision -> type of autocast arithmetic; the others have no autocast."""


@dataclass(frozen=True)
class ModelConfig:
    """Which causal language model is fine-tuned. Group `model`: tiny, hf."""

    path: str = "embedded:tiny"
    """`embedded:tiny`, a local folder in `save_pretrained` format, or a Hugging Face hub id. For
    `sweeper memory` also `arch:NAME`: a well-known model without its weights."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Has no effect on a local folder."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type in which the base weights are held. `auto`: the frozen base of an adapter in the type that the
    precision computes in (bfloat16 under bf16 and bf16_pure, float16 under fp16), the weights of a full
    fine-tune in float32 (bfloat16 under bf16_pure). `float32` with a 16-bit precision is what the paper
    measures: 16-bit arithmetic over float32 weights."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""


@dataclass(frozen=True)
class DataConfig:
    """What the model is fine-tuned on. Group `data`: transport, jsonl, hf."""

    path: str = "embedded:transport"
    """`embedded:transport`, a file (.jsonl, .json, .csv, .parquet), or a hub data set id."""
    source: Literal["embedded", "file", "hub"] = "embedded"
    """Where `path` points; set by the `data` group."""
    eval_path: str | None = None
    """File with the evaluation split. Unset: `eval_fraction` of `path` is held out."""
    name: str | None = None
    """Configuration of a hub data set (for example `main` for gsm8k)."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    train_split: str = "train"
    """Training split of a hub data set."""
    eval_split: str | None = None
    """Evaluation split of a hub data set. Unset: `eval_fraction` of the training split."""
    eval_fraction: float = 0.1
    """Share of the examples held out for evaluation when there is no evaluation split."""
    text_field: str = "text"
    """Field with running text."""
    prompt_field: str = "prompt"
    """Field with the prompt."""
    completion_field: str = "completion"
    """Field with the completion."""
    messages_field: str = "messages"
    """Field with chat messages (`role`, `content`), rendered by the tokenizer's chat template."""
    max_length: int = 128
    """Longest sequence in tokens; longer ones are cut at the end."""
    packing: bool = False
    """Fill sequences of `max_length` with several examples, separated by the end-of-sequence
    token, instead of padding."""
    completion_only_loss: bool = True
    """Count the loss on completions only when examples have a prompt."""
    general_path: str | None = None
    """Text of your own (.jsonl with `text_field`, or .txt with one text per line) on which `forgetting` is
    measured. Unset: general English that comes with the embedded model."""
    answerable_field: str = "answerable"
    """Field that is false for a question whose prompt does not hold the answer. No effect unless
    `evaluate.generate` is set and the data has the field."""
    max_train_examples: int | None = None
    """Use at most this many training examples."""
    max_eval_examples: int | None = None
    """Use at most this many evaluation examples."""


@dataclass(frozen=True)
class LoraSettings:
    """The adapter, in the terms of `peft.LoraConfig`. No effect under `adapter=full`."""

    r: int = 8
    """Rank of the update matrices."""
    alpha: float = 16
    """Scaling: the update is multiplied by `alpha / r` (`alpha / sqrt(r)` with `use_rslora`)."""
    dropout: float = 0.0
    """Dropout on the adapter's input, 0 to below 1."""
    target_modules: str | tuple[str, ...] = "query_value"
    """Modules that get an adapter: `query_value` (the attention's query and value projections,
    whatever the architecture calls them), `all-linear`, or a list of module names."""
    use_rslora: bool = False
    """Rank-stabilised scaling (arXiv 2312.03732)."""
    use_dora: bool = False
    """Weight-decomposed adapter (arXiv 2402.09353)."""


@dataclass(frozen=True)
class BatchConfig:
    """How many sequences make one forward pass and one optimizer step."""

    micro: Literal["auto"] | int = 4
    """Sequences per forward and backward pass. `auto`: the largest divisor of `effective` that is predicted
    to fit `trial.memory_limit_gib`, or the CUDA device's memory where that is unset."""
    effective: int | None = None
    """Sequences per optimizer step. Unset: `micro * accumulation`, or 16 if that is unset too."""
    accumulation: int | None = None
    """Passes per optimizer step. Unset: `effective / micro`."""

    @property
    def sequences(self) -> int:
        """`micro` as a number. Raises ValueError while it is `auto`: only the driver knows what fits."""
        if self.micro == "auto":
            raise ValueError("`batch.micro` must be a number here, but got auto")
        return self.micro


@dataclass(frozen=True)
class TrainConfig:
    """How much training is done and how, in the terms of `transformers.TrainingArguments`."""

    steps: int | None = None
    """Optimizer steps. Unset: as many as `token_budget` asks for, or 20."""
    token_budget: int | None = None
    """Non-padding tokens to train on, instead of `steps`: the first step that reaches it is the
    last."""
    learning_rate: float = 5e-3
    """Peak learning rate of the optimizer."""
    lr_scheduler_type: str = "linear"
    """Schedule of the learning rate: any name that `transformers` knows."""
    warmup_steps: int = 2
    """Steps over which the learning rate rises from 0. (Measurement has its own warm-up:
    `trial.warmup_steps`.)"""
    weight_decay: float = 0.0
    """Decoupled weight decay; not applied to biases and norms."""
    adam_beta1: float = 0.9
    """First-moment decay of the Adam family."""
    adam_beta2: float = 0.999
    """Second-moment decay of the Adam family."""
    adam_epsilon: float = 1e-8
    """Denominator floor of the Adam family."""
    optim_args: str | None = None
    """Further arguments of the optimizer, `name=value,…`, as `TrainingArguments.optim_args`."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 clips nothing."""
    seed: int = 0
    """Seed of data order, adapter initialisation and dropout."""


@dataclass(frozen=True)
class EvaluateConfig:
    """When and how the evaluation loss is taken."""

    every_steps: int | None = None
    """Evaluate after each so many steps, besides before the first and after the last."""
    batch: int | None = None
    """Sequences per evaluation pass. Unset: `batch.micro`."""
    general: int = 32
    """Texts of the general corpus on which `forgetting` is measured, twice per trial; 0: none."""
    generate: int = 0
    """Questions of the evaluation split that the trained model answers, greedily, for `exact_match` and
    `hallucination_rate`; 0: none. Needs data with prompts and completions."""


@dataclass(frozen=True)
class TrialConfig:
    """The process in which one trial runs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where trials run. `auto`: cuda where there is one."""
    memory_limit_gib: float | None = None
    """Memory that a trial may use, enforced: on CUDA by the allocator's fraction of the device, on
    CPU by the process's data limit above its level at trial start. Unset: no limit."""
    timeout_s: float | None = None
    """Seconds after which a trial is ended as `timed_out`. Unset: never."""
    warmup_steps: int = 3
    """First optimizer steps that are left out of every speed figure."""
    threads: int | None = None
    """CPU threads of a trial. Unset: all cores."""
    keep_adapter: bool = True
    """Keep the trained adapter in the trial's folder."""
    probe_steps: int | None = None
    """Measure speed and memory only: end after so many optimizer steps, take those with the longest
    batches first, and leave the evaluation out. Set by `fidelity=probe+train`. Unset: train."""
    require_idle_device: Literal["refuse", "wait", "ignore"] = "refuse"
    """What to do when another process computes on the GPU that a trial is about to use. No effect on
    CPU."""


@dataclass(frozen=True)
class Config:
    """One trial, fully specified, with the study that it belongs to."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: Literal["accelerate", "hf"] = "accelerate"
    """Training loop: a loop on `accelerate`, or `transformers.Trainer`. Group `trainer`."""
    adapter: Literal["lora", "full"] = "lora"
    """What is trained: a LoRA adapter on a frozen base, or every weight. Group `adapter`."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    quantization: Literal["none", "int8", "nf4"] = "none"
    """Storage of the frozen base: as loaded, LLM.int8(), or NF4 with double quantisation (QLoRA,
    arXiv 2305.14314). Group `quantization`."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    checkpointing: bool = False
    """Gradient checkpointing (non-reentrant): recompute activations in the backward pass. Group
    `checkpointing`: on, off."""
    attention: Literal[
        "auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4"
    ] = "sdpa"
    """Attention kernel, by its `transformers` name. `auto`: sdpa where the model's class supports it, else
    eager; a trial records which. Group `attention`."""
    precision: Literal["fp32", "tf32", "fp16", "bf16", "bf16_pure"] = "fp32"
    """Arithmetic: fp16 and bf16 are autocast (fp16 with loss scaling) with adapters, gradients and optimizer
    state in float32; bf16_pure holds these in bfloat16 too. tf32 is float32 whose matrix products round
    their factors to 10 bits of mantissa (CUDA, compute capability 8.0 and later): what 16 bit has to beat
    there. How the base is held says `model.dtype`. Group `precision`."""
    optim: str = "adamw_torch"
    """Optimizer, by its `transformers` name. Group `optim`: adamw, adamw_fused, adafactor, bnb8,
    paged_bnb8 and every name of `transformers`."""
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    trial: TrialConfig = field(default_factory=TrialConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    production: ProductionConfig = field(default_factory=ProductionConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    strategy: Strategy = "auto"
    """Who decides what is measured next. `grid`: every cell once. `search`: a sampler proposes.
    `joint`: as `search`, over batch sizes and methods together (`space=paper` unless you sweep something).
    `paper`: the batch size, then the methods, then the batch size again. `auto`: `grid` where all is
    discrete and `search.n_trials` is unset, else `search`."""
    fidelity: Fidelity = "train"
    """`train`: every cell is trained in full. `probe+train`: a short probe of speed and memory for every
    cell, the full training only for those that can still be best."""
    pruner: Pruner = "none"
    """Ends trials early: those whose evaluation loss falls behind at equal tokens (Optuna's `median`,
    `asha` or `hyperband`; needs `evaluate.every_steps`), and those too slow: below
    `constraint.tokens_per_s`, or behind a trial that no later loss can disqualify. Never the baseline, the
    repeats and the trials of `strategy=paper`."""
    slots: Literal["auto"] | int = 1
    """Trials at a time. `auto`: one per GPU. A number: so many GPUs, or the CPU's cores in equal parts."""
    space: SpaceConfig = field(default_factory=SpaceConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    repeats: RepeatsConfig = field(default_factory=RepeatsConfig)

    @property
    def held_dtype(self) -> str:
        """Type in which the base weights are held, those that are not quantised; torch's name of it."""
        if self.precision == "bf16_pure":
            return "bfloat16"
        if self.model.dtype != "auto":
            return self.model.dtype
        return AUTOCAST.get(self.precision, "float32") if self.adapter != "full" else "float32"

    @property
    def compute_dtype(self) -> str:
        """Type in which linear layers compute; torch's name of it."""
        return AUTOCAST.get(self.precision, self.held_dtype)

    @property
    def arithmetic(self) -> str:
        """What products are computed in: `fp32`, `tf32`, `fp16` or `bf16`."""
        half = {"float16": "fp16", "bfloat16": "bf16"}.get(self.compute_dtype)
        return half or ("tf32" if self.precision == "tf32" else "fp32")

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain nested dictionaries, as it stands in `spec.json`."""
        return dataclasses.asdict(self)


def from_dict(values: Mapping[str, Any]) -> Config:
    """Read a configuration that was validated before (a trial's `spec.json`). Raises TypeError on
    an unknown key; it does not check types."""
    config: Config = _build(Config, values)
    return config


def _build(cls: type[Any], values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(cls)
    return cls(**{name: _field_value(hints.get(name), value) for name, value in values.items()})


def _field_value(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build(hint, value)
    return tuple(value) if isinstance(value, list) else value
