"""The card of a production model: what it is, how it was made and of what, what it measured, its licence.

In the form of Hugging Face model cards (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeper.contract.measurements import METRICS
from sweeper.production.promise import Kept
from sweeper.study.records import TrialRecord
from sweeper.study.units import phrase
from sweeper.study.writing import markdown_table

SETTINGS = (
    "adapter lora.r lora.alpha lora.dropout lora.target_modules lora.use_rslora lora.use_dora quantization "
    "precision attention checkpointing optim train.learning_rate train.lr_scheduler_type train.warmup_steps "
    "train.weight_decay batch.micro batch.effective data.max_length data.packing train.seed"
).split()

_TRANSFORMERS = ("transformers", "AutoModelForCausalLM")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Origin:
    """Where a production run comes from."""

    study: str
    trial: TrialRecord
    rule: str
    command: str
    """The command that repeats the run."""
    licence: str | None


def is_hub_id(path: str) -> bool:
    """Whether a path names something on the hub: no folder, no file, nothing that comes with sweeper."""
    return _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def card(record: TrialRecord, kept: Sequence[Kept], origin: Origin) -> str:
    """The card as Markdown with its metadata in front."""
    head = yaml.safe_dump(_metadata(record, origin.licence), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n".join(_body(record, kept, origin))


def _metadata(record: TrialRecord, licence: str | None) -> dict[str, Any]:
    config = record.spec.config
    is_adapter = config["adapter"] == "lora"
    base, data = config["model"]["path"], config["data"]
    return {
        **({"base_model": base} if is_hub_id(base) else {}),
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        **({"datasets": [data["path"]]} if data["source"] == "hub" and is_hub_id(data["path"]) else {}),
        # `other` with a name is how the hub wants a licence that it has no key for
        **({"license": licence} if licence else {"license": "other", "license_name": "see-licence-section"}),
        "tags": ["sweeper", config["adapter"], *(["qlora"] if config["quantization"] != "none" else [])],
    }


def _body(record: TrialRecord, kept: Sequence[Kept], origin: Origin) -> Iterator[str]:
    config = record.spec.config
    yield f"# {origin.study}: {origin.trial.label}"
    yield ""
    kind = "LoRA adapter on" if config["adapter"] == "lora" else "full fine-tune of"
    yield f"A {kind} `{config['model']['path']}`, trained on `{config['data']['path']}`."
    yield from _section("Use", _use(config))
    yield from _section("Measured", markdown_table(("figure", "value"), _figures(record)))
    yield from _section("Promised by the trial, kept by this run", _promises(kept))
    yield from _section("Methods", markdown_table(("option", "value"), _settings(config)))
    yield from _section("Model and data", markdown_table(("what", "which"), _inputs(record)))
    yield from _section("Hardware and software", markdown_table(("what", "which"), _environment(record)))
    yield from _section("Licence", [_licence(config, origin.licence)])
    yield from _section("How it was chosen and how to repeat it", _choice(origin))


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _use(config: Mapping[str, Any]) -> list[str]:
    """Code that runs as it stands in the model's folder; an adapter's own file says where its base is."""
    package, loader = ("peft", "AutoPeftModelForCausalLM") if config["adapter"] == "lora" else _TRANSFORMERS
    trusted = ", trust_remote_code=True" if config["model"]["trust_remote_code"] else ""
    return [
        "In this folder:",
        "",
        "```python",
        *([f"from {package} import {loader}"] if package == "peft" else []),
        f"from transformers import {'' if package == 'peft' else f'{loader}, '}AutoTokenizer",
        "",
        f'model = {loader}.from_pretrained("."{trusted})',
        f'tokenizer = AutoTokenizer.from_pretrained("."{trusted})',
        'prompt = tokenizer("Question:", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=20)[0], skip_special_tokens=True))",
        "```",
    ]


def _figures(record: TrialRecord) -> list[tuple[str, str]]:
    known = [(name, record.metric(name)) for name, metric in METRICS.items() if metric.is_on_card]
    return [(name.replace("_", " "), phrase(name, value)) for name, value in known if value is not None]


def _promises(kept: Sequence[Kept]) -> list[str]:
    if not kept:
        return ["The trial and this run have no figure in common."]
    rows = [
        (
            item.metric.replace("_", " "),
            phrase(item.metric, item.promised),
            phrase(item.metric, item.kept),
            _verdict(item),
        )
        for item in kept
    ]
    notes = [f"- {item.metric.replace('_', ' ')}: {item.note}" for item in kept]
    return [*markdown_table(("figure", "trial", "this run", "within noise"), rows), "", *notes]


def _verdict(item: Kept) -> str:
    return "**no**" if item.is_outside else "yes"


def _settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    skipped = "lora." if config["adapter"] != "lora" else "-"
    names = [name for name in SETTINGS if not name.startswith(skipped)]
    return [(f"`{name}`", f"`{_setting(config, name)}`") for name in names]


def _setting(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value


def _inputs(record: TrialRecord) -> list[tuple[str, str]]:
    config, active = record.spec.config, record.result.active if record.result else {}
    rows = [
        ("base model", config["model"]["path"]),
        ("revision", config["model"]["revision"]),
        ("fingerprint of its files", active.get("model_fingerprint")),
        ("data", config["data"]["path"]),
        ("revision", config["data"]["revision"]),
        ("fingerprint of its tokens", active.get("data_fingerprint")),
        ("weights of step", active.get("best_step")),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _environment(record: TrialRecord) -> list[tuple[str, str]]:
    found = record.result.environment if record.result else {}
    plain = [
        (name.replace("_", " "), found.get(name)) for name in ("device", "cpu", "cuda", "python", "platform")
    ]
    libraries = [(name, version) for name, version in (found.get("libraries") or {}).items()]
    return [(name, str(value)) for name, value in [*plain, *libraries] if value is not None]


def _licence(config: Mapping[str, Any], licence: str | None) -> str:
    inherited = (
        f"those of the base model `{config['model']['path']}` and of the data `{config['data']['path']}`"
    )
    if licence:
        return f"`{licence}`, beside {inherited}."
    return f"Not stated (`production.licence`): {inherited} apply."


def _choice(origin: Origin) -> list[str]:
    return [
        f"Trial {origin.trial.number} of study `{origin.study}`, by the rule: {origin.rule}.",
        "",
        f"    {origin.command}",
        "",
        "The exact configuration is `sweeper.yaml`; `training_args.json` holds the same for "
        "`transformers.TrainingArguments`.",
    ]
