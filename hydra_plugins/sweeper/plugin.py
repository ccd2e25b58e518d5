"""The door through which Hydra reaches sweeper: `-m` hands its overrides to `sweeper.cli`.

Every Hydra program on the machine imports this file, so it holds next to nothing.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="sweeper",
    node={"_target_": "hydra_plugins.sweeper.plugin.SweeperPlugin", "n_trials": None},
    provider="sweeper",
)


class SweeperPlugin(Sweeper):
    """Runs one trial per cell instead of Hydra's one job per cell; no Hydra launcher takes part."""

    def __init__(self, n_trials: int | None = None) -> None:
        """`n_trials`: another name of `search.n_trials`, known from Hydra's own Optuna sweeper."""
        self._own = [] if n_trials is None else [f"search.n_trials={n_trials}"]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        from sweeper.cli.study import run_study

        assert self.config is not None
        return run_study([*arguments, *self._own], self.config.hydra.job.config_name)
