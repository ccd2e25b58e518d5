"""The configuration: Hydra composes it, `schema.py` types it, every mistake is found at once."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Glob
from omegaconf import OmegaConf

from sweeper.contract import Problem
from sweeper.schema import DEFAULT_EFFECTIVE_BATCH, DEFAULT_STEPS, MISSING, BatchConfig, Config

DEFAULT_OBJECTIVE = "tokens_per_s"
MAPPINGS = ("space.sweep", "space.only_when")
"""Options whose value is a mapping from options: `space.only_when={lora.use_dora: quantization=none}`."""

OPTIMIZERS = (
    "adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adamw_anyprecision "
    "adamw_torch_4bit adamw_torch_8bit ademamix sgd adagrad adamw_bnb_8bit adamw_8bit ademamix_8bit "
    "lion_8bit lion_32bit paged_adamw_32bit paged_adamw_8bit paged_ademamix_32bit paged_ademamix_8bit "
    "paged_lion_32bit paged_lion_8bit rmsprop rmsprop_bnb rmsprop_bnb_8bit rmsprop_bnb_32bit galore_adamw "
    "galore_adamw_8bit galore_adafactor galore_adamw_layerwise galore_adamw_8bit_layerwise "
    "galore_adafactor_layerwise lomo adalomo grokadamw schedule_free_radam schedule_free_adamw "
    "schedule_free_sgd apollo_adamw apollo_adamw_layerwise stable_adamw"
).split()
"""Names of `transformers.training_args.OptimizerNames` besides those in conf/optim (a test compares)."""


def register() -> None:
    """Give Hydra the defaults of the schema and a group option for every optimizer of transformers."""
    store = ConfigStore.instance()
    defaults = Config().to_dict()
    for section in ("model", "data"):  # set by the group's option; OmegaConf never merges ??? over a value
        defaults[section]["path"] = MISSING
    schema = OmegaConf.create(defaults)
    for name in MAPPINGS:  # any option may stand in them; Hydra refuses keys that the schema lacks elsewhere
        OmegaConf.set_struct(OmegaConf.select(schema, name), value=False)
    store.store(name="schema", node=schema, provider="sweeper")
    for name in OPTIMIZERS:
        store.store(group="optim", name=name, node={"optim": name}, package="_global_", provider="sweeper")


@contextmanager
def initialized_hydra() -> Iterator[None]:
    """Hydra ready to compose, for whoever is not called by `hydra.main`."""
    import hydra

    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def conf_dir() -> Path:
    """The folder of configuration files: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def groups() -> dict[str, list[str]]:
    """Every group with its options."""
    found = {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(conf_dir().iterdir())
        if folder.is_dir()
    }
    found["optim"] += OPTIMIZERS
    return found


def keys() -> list[str]:
    """Every option of the schema by its dotted name."""
    return [name for name, _ in _leaves(Config, "")]


@cache
def whole_number_keys() -> frozenset[str]:
    """Options that hold whole numbers."""
    return frozenset(_whole_numbers(Config, ""))


@cache
def number_keys() -> frozenset[str]:
    """Options that may hold a number, and nothing but numbers and a word or None."""
    return frozenset(_numbers(Config, ""))


def _numbers(cls: type[Any], prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _numbers(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif {hint, *get_args(hint)} & {int, float} and hint is not bool:
            yield f"{prefix}{name}"


def _whole_numbers(cls: type[Any], prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _whole_numbers(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif hint in (int, int | None):
            yield f"{prefix}{name}"


def documentation() -> Iterator[tuple[str, Any, str]]:
    """Dotted name, default and docstring of every option."""
    defaults = OmegaConf.create(Config().to_dict())
    for name, text in _leaves(Config, ""):
        yield name, OmegaConf.select(defaults, name), text


def _leaves(cls: type[Any], prefix: str) -> Iterator[tuple[str, str]]:
    hints, texts = get_type_hints(cls), _docstrings(cls)  # type: ignore[arg-type]  # a class is hashable
    for item in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from _leaves(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", texts.get(item.name, "")


@cache
def _docstrings(cls: type[Any]) -> dict[str, str]:
    """The text under each field of a dataclass."""
    import ast
    import inspect

    (tree,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def name_problems(overrides: Sequence[Any], external: Sequence[Path] = ()) -> list[tuple[int, Problem]]:
    """Overrides (Hydra's parsed `Override`s) whose key or group choice does not exist, by position.

    `external` holds further configuration folders (`--config-dir`), whose options count too.
    """
    known_groups, known_keys = groups(), keys()
    for folder in external:
        for file in folder.glob("*/*.yaml"):
            known_groups.setdefault(file.parent.name, []).append(file.stem)
    found = []
    for position, override in enumerate(overrides):
        key = override.key_or_group
        if key.startswith("hydra") or override.package is not None:
            continue
        if key in known_groups:
            found += [(position, problem) for problem in _choice_problems(override, known_groups[key])]
        elif key not in known_keys:
            found.append((position, _unknown_key(override, [*known_keys, *known_groups])))
    return found


def _choice_problems(override: Any, options: list[str]) -> Iterator[Problem]:
    swept = override.is_sweep_override()
    if swept and (not override.is_discrete_sweep() or isinstance(override.value(), Glob)):
        return
    values = list(override.sweep_string_iterator()) if swept else [override.get_value_element_as_str()]
    for value in values:
        if value not in options:
            near = difflib.get_close_matches(value, options, n=3, cutoff=0.4) or options[:8]
            yield Problem(
                f"{override.key_or_group} must name one of its options",
                override.key_or_group,
                value,
                f"take one of {', '.join(near)}",
            )


def _unknown_key(override: Any, known: list[str]) -> Problem:
    key = override.key_or_group
    last_parts = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    near += [last_parts[part] for part in difflib.get_close_matches(key, last_parts, n=2, cutoff=0.7)]
    sections = {name.partition(".")[0] for name in known if "." in name}
    mapping = next((name for name in MAPPINGS if key.startswith(f"{name}.")), None)
    if key in sections:
        rule, remedy = "a section takes no value", f"set one of its options, such as {_first(key, known)}"
    elif mapping:
        rule = f"{mapping} takes its options in braces"
        remedy = f"write \"{mapping}={{{key.removeprefix(f'{mapping}.')}: '…'}}\""
    else:
        rule = "the option must exist"
        remedy = f"take {' or '.join(dict.fromkeys(near))}" if near else "see `python -m sweeper options`"
    return Problem(rule, key, override.get_value_string(), remedy)


def _first(section: str, known: list[str]) -> str:
    return next(name for name in known if name.startswith(f"{section}."))


def typed(composed: Mapping[str, Any]) -> tuple[Config | None, list[Problem]]:
    """Check a composed configuration against the schema. The problems are those of all options.

    The configuration has defaults in place of what is wrong, so that further checks can go on; it is
    None when even that does not help.
    """
    from pydantic import ValidationError

    missing = [name for name, value in _flat(composed) if value == MISSING]
    problems = [Problem("the option must be set", name, MISSING, f"give {name}=…") for name in missing]
    try:
        config = _adapter().validate_python(_with_defaults(composed, missing) if missing else composed)
    except ValidationError as error:
        found = [_type_problem(item) for item in error.errors()]
        problems += [problem for problem in found if problem.key not in missing]
        try:
            config = _adapter().validate_python(_with_defaults(composed, [item.key for item in problems]))
        except ValidationError:
            config = None
    return config, problems


def _with_defaults(composed: Mapping[str, Any], names: list[str]) -> Any:
    """The configuration with the schema's default for each name, and without names it does not know."""
    values = OmegaConf.create(dict(composed))
    defaults = OmegaConf.create(Config().to_dict())
    for name in names:
        OmegaConf.update(values, name, OmegaConf.select(defaults, name), force_add=True)
    return OmegaConf.to_container(values, resolve=True)


@cache
def _adapter() -> Any:
    from pydantic import ConfigDict, TypeAdapter

    hints = get_type_hints(Config)
    sections: list[Any] = [hint for hint in hints.values() if dataclasses.is_dataclass(hint)]
    for cls in (Config, *sections):
        cls.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    return TypeAdapter(Config)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _type_problem(error: Any) -> Problem:
    key = ".".join(str(part) for part in error["loc"] if re.fullmatch(r"[a-z_0-9]+", str(part)))
    key = re.sub(r"\.(str|tuple|int|float|bool)(\..*)?$", "", key)
    rule = error["msg"][0].lower() + error["msg"][1:]
    near = difflib.get_close_matches(key, keys(), n=2)
    unknown = error["type"] == "unexpected_keyword_argument"
    remedy = f"take {' or '.join(near) or 'another option'}" if unknown else "give a value of that type"
    return Problem("the option must exist" if unknown else rule, key, str(error["input"]), remedy)


def resolved(config: Config) -> Config:
    """The configuration with every derived value filled in: batch sizes, steps, objective."""
    train, objective = config.train, config.objective
    if train.steps is None and train.token_budget is None:
        train = dataclasses.replace(train, steps=DEFAULT_STEPS)
    if not objective.maximize and not objective.minimize:
        objective = dataclasses.replace(objective, maximize=DEFAULT_OBJECTIVE)
    return dataclasses.replace(config, batch=_resolved_batch(config.batch), train=train, objective=objective)


def _resolved_batch(batch: BatchConfig) -> BatchConfig:
    effective, accumulation = batch.effective, batch.accumulation
    if batch.micro == "auto":
        return BatchConfig("auto", effective or DEFAULT_EFFECTIVE_BATCH, accumulation)
    if effective is None:
        effective = batch.micro * accumulation if accumulation else DEFAULT_EFFECTIVE_BATCH
    if accumulation is None:
        accumulation = max(1, effective // max(1, batch.micro))
    return BatchConfig(batch.micro, effective, accumulation)
