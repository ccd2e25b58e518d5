"""The rule that makes a trial best: its objectives and its constraints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sweeper.contract.study_config import ConstraintConfig, ObjectiveConfig
from sweeper.contract.trial import known_fields
from sweeper.ranking.constraint import LISTS, Constraint, parse_constraints
from sweeper.ranking.objective import MEMORY, SPEED, Objective, parse_objectives
from sweeper.study.records import TrialRecord


@dataclass(frozen=True)
class Rule:
    """The rule that picks the best trial."""

    objectives: tuple[Objective, ...]
    """The first one ranks."""
    constraints: tuple[Constraint, ...] = ()
    baseline: str | None = None
    """The cell whose evaluation loss `eval_loss_within` refers to instead of the lowest."""

    @classmethod
    def of(cls, objective: ObjectiveConfig, constraint: ConstraintConfig) -> Rule:
        return cls(parse_objectives(objective), parse_constraints(constraint), constraint.baseline)

    @classmethod
    def recorded(cls, config: Mapping[str, Any]) -> Rule:
        """The rule of a study's record; options of other versions of sweeper are ignored."""
        objective = known_fields(ObjectiveConfig, config.get("objective") or {})
        constraint = known_fields(ConstraintConfig, config.get("constraint") or {})
        return cls.of(ObjectiveConfig(**objective), ConstraintConfig(**constraint))

    @property
    def objective(self) -> Objective:
        """The objective that ranks."""
        return self.objectives[0]

    @property
    def metric(self) -> str:
        return self.objective.metric

    @property
    def second(self) -> Objective:
        """What decides between cells within each other's noise: the second objective, else peak memory
        (throughput, where memory is the objective)."""
        if len(self.objectives) > 1:
            return self.objectives[1]
        return SPEED if "memory" in self.metric else MEMORY

    @property
    def loss_limit(self) -> Constraint | None:
        """The constraint that refers to a loss of the study."""
        return next((item for item in self.constraints if item.is_relative), None)

    def allowed_loss(self, reference: float | None) -> float | None:
        """The highest evaluation loss beside this reference; None where any is allowed."""
        limit = self.loss_limit
        return None if limit is None else replace(limit, reference=reference).allowed

    def with_reference(self, loss: float | None) -> Rule:
        """The rule with the loss that it refers to."""
        referred = (replace(item, reference=loss) if item.is_relative else item for item in self.constraints)
        return replace(self, constraints=tuple(referred))

    def with_limits(self, limits: Mapping[str, float | None]) -> Rule:
        """The rule with other numbers, by the names of constraints; one that becomes None is dropped."""
        moved = [(item, limits.get(item.name, item.limit)) for item in self.constraints]
        kept = tuple(replace(item, limit=limit) for item, limit in moved if limit is not None)
        return replace(self, constraints=kept)

    def about(self, metrics: Collection[str]) -> Rule:
        """The rule with the constraints on these metrics alone."""
        return replace(self, constraints=tuple(item for item in self.constraints if item.metric in metrics))

    def excesses(self, record: TrialRecord) -> dict[str, float]:
        """By how much the trial misses each constraint, as far as it can be told and by the name that Optuna
        stores; 0 or less: keeps it."""
        found = ((item.stored_name, item.excess(record)) for item in self.constraints)
        return {name: excess for name, excess in found if excess is not None}

    def typed(self, option: str) -> str:
        """The override that sets a constraint as it is; a list is said whole."""
        own = [item for item in self.constraints if item.option == option]
        if option in LISTS:
            return f"constraint.{option}=[{','.join(f'{item.metric}:{item.limit:g}' for item in own)}]"
        return f"constraint.{option}={own[0].limit:g}"

    def sentence(self) -> str:
        """The rule for a person."""
        conditions = " and ".join(item.sentence(self.baseline) for item in self.constraints)
        among = f" among trials with {conditions}" if conditions else ""
        return f"{self.objective.way} {self.metric}{among}"

    def to_json(self) -> dict[str, Any]:
        """The rule as plain JSON types."""
        return {
            "objectives": [asdict(item) for item in self.objectives],
            "second": asdict(self.second),
            "constraints": [
                {"name": item.name, "metric": item.metric, "limit": item.limit,
                 "is_highest": item.is_highest}
                for item in self.constraints
            ],
            "baseline": self.baseline,
            "sentence": self.sentence(),
        }  # fmt: skip
