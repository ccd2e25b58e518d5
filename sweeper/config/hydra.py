"""Hydra, started: where `conf/` lies, which groups it has, what it is told to accept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

from sweeper.contract.config import MISSING, Config

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
"""Texts that Hydra's grammar takes as they are, and nothing else."""
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
    own = {"n_trials": None, "params": None}  # known from Hydra's own sweepers; `cli.hydra_doors` reads them
    store.store(group="hydra/sweeper", name="sweeper", node=own, provider="sweeper")
    for name in OPTIMIZERS:
        store.store(group="optim", name=name, node={"optim": name}, package="_global_", provider="sweeper")


@contextmanager
def initialized_hydra(folders: Sequence[str] = ()) -> Iterator[None]:
    """Hydra ready to compose. `folders`: where further options lie, as paths or in Hydra's words
    (`file://…`, `pkg://…`); of two files with one name ours is taken."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.initialize import get_gh_backup, restore_gh_from_backup

    register()
    version.setbase("1.3")
    search_path = create_config_search_path(str(conf_dir()))
    for folder in folders:
        path = folder if "://" in folder else f"file://{Path(folder).absolute()}"
        search_path.prepend("command-line", path, SearchPathQuery(provider="schema"))
    before = get_gh_backup()
    Hydra.create_main_hydra2(task_name="sweeper", config_search_path=search_path)
    try:
        yield
    finally:
        restore_gh_from_backup(before)


def conf_dir() -> Path:
    """The folder of configuration files: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def groups() -> dict[str, list[str]]:
    """Every group with its options: those that Hydra finds where it is initialised, else those of `conf/`."""
    if GlobalHydra.instance().is_initialized():
        return dict(_find_groups(""))
    found = {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(conf_dir().iterdir())
        if folder.is_dir()
    }
    found["optim"] += OPTIMIZERS
    return found


def own_groups() -> list[str]:
    """The groups of `conf/`, each of which has an option in every configuration."""
    return sorted(folder.name for folder in conf_dir().iterdir() if folder.is_dir())


def to_override(key: str, value: Any) -> str:
    """An override that gives an option this very value, in the words of Hydra's grammar."""
    return f"{key}={_to_text(value)}"


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        is_plain = PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false", "nan", "inf")
        return value if is_plain else QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_to_text(key)}:{_to_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_to_text, value)) + "]"
    return json.dumps(value)


def _find_groups(parent: str) -> Iterator[tuple[str, list[str]]]:
    loader: Any = GlobalHydra.instance().config_loader()
    repository = loader.repository  # the loader's own methods copy every option on each call
    for name in repository.get_group_options(parent, ObjectType.GROUP):
        group = f"{parent}/{name}" if parent else name
        if group != "hydra":
            if options := repository.get_group_options(group, ObjectType.CONFIG):
                yield group, options
            yield from _find_groups(group)
