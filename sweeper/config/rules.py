"""Which configurations make sense on this machine, and why the others do not. Pure functions.

Each rule takes a resolved configuration and the machine, and yields a `Problem` when it is broken. What
needs the model or the data to be looked at (target modules, data files) is checked by `trainers.prepare`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from sweeper.config.data_rules import data_file, data_source, general_text
from sweeper.contract.config import Config
from sweeper.contract.trial import Outcome, Problem
from sweeper.machine import ATTENTION_PACKAGES, Machine, uses_cuda

Rule = Callable[[Config, Machine], Iterator[Problem]]

BF16_CAPABILITY = (8, 0)
"""CUDA C++ Programming Guide, arithmetic instructions: bfloat16 and TF32 from compute capability 8.0."""
FLASH_CAPABILITY = {
    "flash_attention_2": (8, 0),
    "flash_attention_3": (9, 0),
    "flash_attention_4": (9, 0),
}
"""Lowest compute capability, as the README of Dao-AILab/flash-attention states it: Ampere, Hopper, Hopper."""
FLASH_INSTALL = {
    "flash_attention_2": "pip install --no-build-isolation 'finetune-sweeper[flash]' (compiles with nvcc, "
    "which takes long)",
    "flash_attention_3": "build it from the folder hopper of github.com/Dao-AILab/flash-attention",
    "flash_attention_4": "pip install flash-attn-4",
}
POSITIVE = (
    "lora.r lora.alpha batch.micro batch.effective batch.accumulation data.max_length "
    "data.max_train_examples data.max_eval_examples train.steps train.token_budget train.learning_rate "
    "train.adam_epsilon evaluate.every_steps evaluate.batch trial.memory_limit_gib trial.timeout_s "
    "trial.threads trial.probe_steps constraint.peak_memory_gib"
).split()
NOT_NEGATIVE = (
    "evaluate.general evaluate.generate "
    "train.warmup_steps train.weight_decay train.max_grad_norm train.seed trial.warmup_steps "
    "constraint.eval_loss_within"
).split()
MOST_BYTES_OF_A_NAME = 200
"""File systems take 255, and temporary names beside the folder add some."""
SHARES = "lora.dropout train.adam_beta1 train.adam_beta2".split()


def check(config: Config, machine: Machine) -> list[Problem]:
    """Every rule that the configuration breaks on this machine."""
    return [problem for rule in RULES for problem in rule(config, machine)]


def _value(config: Config, key: str) -> float | None:
    section, name = key.split(".")
    value: float | str | None = getattr(getattr(config, section), name)
    return None if isinstance(value, str) else value


def ranges(config: Config, machine: Machine) -> Iterator[Problem]:
    """Numbers lie in their ranges."""
    for rule, keys, lowest, below, is_open in (
        ("> 0", POSITIVE, 0, math.inf, True),
        (">= 0", NOT_NEGATIVE, 0, math.inf, False),
        ("in [0, 1)", SHARES, 0, 1, False),
        ("in (0, 1)", ["data.eval_fraction"], 0, 1, True),
    ):
        for key in keys:
            value = _value(config, key)
            if value is None:
                continue
            if value < lowest or value >= below or (is_open and value == lowest):
                yield Problem(f"{key} must be {rule}", key, str(value), f"give a value {rule}")


def batch(config: Config, machine: Machine) -> Iterator[Problem]:
    """The three batch options agree."""
    micro, effective, accumulation = config.batch.micro, config.batch.effective, config.batch.accumulation
    if micro == "auto" or micro < 1 or not effective or not accumulation:
        return
    if effective % micro:
        yield Problem(
            "batch.micro must divide batch.effective",
            "batch.micro",
            f"{micro} (batch.effective={effective})",
            f"take batch.micro of {', '.join(map(str, _divisors(effective)))}",
        )
    elif micro * accumulation != effective:
        yield Problem(
            "batch.micro * batch.accumulation must equal batch.effective",
            "batch.accumulation",
            f"{accumulation} (batch.micro={micro}, batch.effective={effective})",
            "leave batch.accumulation or batch.effective out",
        )


def auto_batch(config: Config, machine: Machine) -> Iterator[Problem]:
    """There is a limit that the micro batch can be fitted to, and nothing else that decides it."""
    if config.batch.micro != "auto":
        return
    if config.trial.memory_limit_gib is None and not uses_cuda(config, machine):
        yield Problem(
            "batch.micro=auto needs a limit to fit, and a CPU has none of its own",
            "trial.memory_limit_gib",
            "null",
            "give trial.memory_limit_gib=…, or a number for batch.micro",
        )
    if config.batch.accumulation is not None:
        yield Problem(
            "batch.micro=auto decides batch.accumulation too",
            "batch.accumulation",
            str(config.batch.accumulation),
            "leave batch.accumulation out and set batch.effective",
        )


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0][:12]


def work(config: Config, machine: Machine) -> Iterator[Problem]:
    """The amount of work is said once, and some of it can be measured."""
    steps, budget = config.train.steps, config.train.token_budget
    if steps is not None and budget is not None:
        yield Problem(
            "train.steps and train.token_budget exclude each other",
            "train.token_budget",
            str(budget),
            "set one of them to null",
        )
    probe, warmup = config.trial.probe_steps, config.trial.warmup_steps
    if probe is not None and probe <= warmup:
        yield Problem(
            "trial.probe_steps must exceed trial.warmup_steps, else no step is measured",
            "trial.probe_steps",
            f"{probe} (trial.warmup_steps={warmup})",
            "leave it out, and set fidelity=probe+train",
        )
    if steps is not None and steps <= warmup:
        yield Problem(
            "train.steps must exceed trial.warmup_steps, else no step is measured",
            "train.steps",
            f"{steps} (trial.warmup_steps={config.trial.warmup_steps})",
            "train for more steps or lower trial.warmup_steps",
        )


def device(config: Config, machine: Machine) -> Iterator[Problem]:
    """A CUDA device is there when one is asked for, starts, and is like the others."""
    if config.trial.device == "cpu":
        return
    if machine.trouble is not None:
        yield replace(machine.trouble, value=config.trial.device)
    elif config.trial.device == "cuda" and not machine.usable:
        yield Problem(
            "trial.device=cuda needs a CUDA device", "trial.device", "cuda", "use trial.device=auto or cpu"
        )
    elif machine.is_mixed:
        gpus = ", ".join(f"{item.visible_as}: {item.name}" for item in machine.usable)
        yield Problem(
            "the GPUs of a study must be alike, else what they measure cannot be compared",
            "CUDA_VISIBLE_DEVICES",
            gpus,
            f"name those of one kind, as in CUDA_VISIBLE_DEVICES={machine.usable[0].visible_as}",
        )


def precision(config: Config, machine: Machine) -> Iterator[Problem]:
    """The arithmetic exists on the device."""
    on_cuda, capability = uses_cuda(config, machine), machine.compute_capability
    if config.precision == "fp16" and not on_cuda:
        yield Problem(
            "precision=fp16 needs CUDA (loss scaling and half-precision kernels)",
            "precision",
            "fp16",
            "use precision=bf16 on CPU",
        )
    is_bf16 = config.precision in ("bf16", "bf16_pure")
    if is_bf16 and on_cuda and capability is not None and capability < BF16_CAPABILITY:
        yield Problem(
            f"bfloat16 needs compute capability 8.0: on {machine.device} ({capability[0]}.{capability[1]}) "
            "it is emulated in float32, and what it measures is no figure of bfloat16",
            "precision",
            config.precision,
            "use precision=fp16 or fp32",
        )
    is_old = on_cuda and capability is not None and capability < BF16_CAPABILITY
    if config.precision == "tf32" and (is_old or not on_cuda):
        rule = "precision=tf32 needs a CUDA device of compute capability 8.0 or higher"
        yield Problem(rule, "precision", "tf32", "use precision=fp32")
    if config.precision == "fp16" and config.held_dtype == "float16" and config.adapter == "full":
        yield Problem(
            "precision=fp16 needs weights that can be unscaled in float32: adapter=full trains all of them",
            "model.dtype",
            config.model.dtype,
            "use model.dtype=auto, or adapter=lora, whose own weights are float32",
        )


def attention(config: Config, machine: Machine) -> Iterator[Problem]:
    """A flash attention kernel can run."""
    kernel = config.attention
    if kernel not in FLASH_CAPABILITY:
        return
    lowest, found = FLASH_CAPABILITY[kernel], machine.compute_capability
    for holds, rule, remedy in (
        (uses_cuda(config, machine), "needs a CUDA device", "use attention=sdpa"),
        (
            kernel in machine.kernels,
            f"needs the package {ATTENTION_PACKAGES[kernel]}",
            f"{FLASH_INSTALL[kernel]}, or use attention=sdpa",
        ),
        (
            config.compute_dtype != "float32",
            "needs 16-bit precision",
            "use precision=bf16, fp16 or bf16_pure",
        ),
        (
            found is None or found >= lowest,
            f"needs compute capability {lowest[0]}.{lowest[1]} or higher",
            "use attention=sdpa",
        ),
    ):
        if not holds:
            value = f"{kernel} (precision={config.precision})"
            yield Problem(f"attention={kernel} {rule}", "attention", value, remedy)


def quantization(config: Config, machine: Machine) -> Iterator[Problem]:
    """A quantised base is frozen."""
    if config.quantization != "none" and config.adapter == "full":
        yield Problem(
            "a quantised base cannot be trained itself",
            "quantization",
            f"{config.quantization} (adapter=full)",
            "use adapter=lora or quantization=none",
        )


def retry(config: Config, machine: Machine) -> Iterator[Problem]:
    """Outcomes to run again are outcomes."""
    known = [outcome.value for outcome in Outcome]
    for name in config.study.retry:
        if name not in known:
            yield Problem(
                "study.retry must list outcomes", "study.retry", name, f"take some of {', '.join(known)}"
            )


def study_name(config: Config, machine: Machine) -> Iterator[Problem]:
    """The study's name can be that of a folder, and is not hidden as our cache is."""
    name = config.study.name
    if name is None:
        return
    is_plain = name.isprintable() and name.strip() and "/" not in name and not name.startswith(".")
    if not is_plain or len(name.encode()) > MOST_BYTES_OF_A_NAME:
        rule = f"study.name must be a folder name of at most {MOST_BYTES_OF_A_NAME} bytes"
        remedy = "leave slashes, a leading dot and what cannot be printed out"
        yield Problem(rule, "study.name", name if name.isprintable() else repr(name), remedy)


RULES: tuple[Rule, ...] = (
    ranges,
    batch,
    auto_batch,
    work,
    device,
    precision,
    attention,
    quantization,
    data_source,
    data_file,
    general_text,
    retry,
    study_name,
)
