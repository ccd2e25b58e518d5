"""Time of an optimizer step from its work: two parameters of a device, fitted from finished trials.

    step_time_s = flops / flops_per_s + passes * pass_overhead_s

`flops` are those that are executed: per token and weight 2 forward, 2 for the gradient of the activations,
2 more for that of each trained weight, and 2 again where checkpointing recomputes, so 6N for a full
fine-tune and 4N under LoRA (arXiv 2001.08361, section 2.1; arXiv 2205.05198 for recomputation), plus
attention. The two parameters are never negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.contract import read_json, write_json

FILE = "time_model.json"
"""File in the cache below `study.root`: what earlier studies learned about each device."""
MOST_POINTS = 200
"""Trials that are remembered per device and arithmetic, the latest ones."""

Point = tuple[float, float, float]
"""Floating-point operations and passes of a step, and its measured seconds."""


@dataclass(frozen=True)
class TimeModel:
    """The two parameters of one device under one arithmetic."""

    flops_per_s: float
    pass_overhead_s: float

    def step_time_s(self, work: Mapping[str, float]) -> float:
        """Predicted time of one optimizer step."""
        return work["flops"] / self.flops_per_s + work["passes"] * self.pass_overhead_s


def fitted(points: Sequence[Point]) -> TimeModel | None:
    """Least squares of relative errors, both parameters at least 0; None without a trial."""
    rows = [(flops / seconds, passes / seconds) for flops, passes, seconds in points if seconds > 0]
    if not rows:
        return None
    first_only = _share([flops for flops, _ in rows])
    a, b = _two(rows)
    if len(rows) < 2 or a <= 0 or b < 0:
        a, b = first_only, 0.0
    return TimeModel(flops_per_s=1 / a, pass_overhead_s=b)


def _share(values: Sequence[float]) -> float:
    """The factor that brings every value closest to 1."""
    return sum(values) / sum(value * value for value in values)


def _two(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The factors that bring every weighted sum of a row closest to 1; zeros where rows are all alike."""
    left = sum(row[0] ** 2 for row in rows)
    right = sum(row[1] ** 2 for row in rows)
    mixed = sum(row[0] * row[1] for row in rows)
    determinant = left * right - mixed * mixed
    if determinant <= 1e-9 * left * right:
        return 0.0, 0.0
    sums = sum(row[0] for row in rows), sum(row[1] for row in rows)
    x = (sums[0] * right - sums[1] * mixed) / determinant
    return x, (sums[1] * left - sums[0] * mixed) / determinant


def device_key(device: str, config: Mapping[str, Any]) -> str:
    """Speeds are one thing per device, arithmetic and storage of the base."""
    threads = config["trial"]["threads"]
    return " / ".join(map(str, (device, config["precision"], config["quantization"], threads)))


class TimeModels:
    """What is known of the speed of devices, kept in the cache."""

    def __init__(self, cache_dir: Path) -> None:
        self._path = cache_dir / FILE
        self._points: dict[str, list[Point]] = {}
        if self._path.exists():
            self._points = {
                key: [tuple(point) for point in points] for key, points in read_json(self._path).items()
            }

    def of(self, key: str) -> TimeModel | None:
        """The model of a device; None before its first trial."""
        return fitted(self._points.get(key, []))

    def learn(self, key: str, work: Mapping[str, float], seconds: float) -> None:
        """Take a measured step into account."""
        points = self._points.setdefault(key, [])
        points.append((work["flops"], work["passes"], seconds))
        del points[:-MOST_POINTS]

    def save(self) -> None:
        """Keep what was learned for later studies."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._points)
