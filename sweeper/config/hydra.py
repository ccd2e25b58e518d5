"""Hydra, started: where `conf/` lies, which groups it has, what it is told to accept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from sweeper.contract.config import MISSING, Config

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
    package = Path(__file__).resolve().parents[1]
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
