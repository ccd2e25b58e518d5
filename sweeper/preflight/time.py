"""Time of an optimizer step from its work: a rate of arithmetic, a fixed time per pass, and a bandwidth.

    step_time_s = flops / flops_per_s + passes * pass_s + optimizer_bytes / bytes_per_s

The first two are fitted per device, arithmetic and storage of the base from finished trials; the third too
once trials of enough different work are there, else it counts nothing. `flops` are those that are executed:
per token and weight 2 forward, 2 for the gradient of the activations, 2 more for that of each trained
weight, and 2 again where checkpointing recomputes, so 6N for a full fine-tune and 4N under LoRA
(arXiv 2001.08361, section 2.1; arXiv 2205.05198 for recomputation), plus attention. `optimizer_bytes` are
gradients read, weights and state read and written. No parameter is negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.contract.config import Config, from_dict
from sweeper.contract.json_files import read_json, write_json
from sweeper.machine import Machine, uses_cuda

FILE = "time_model.json"
"""File in the cache below `study.root`: what earlier studies learned about each device."""
MOST_POINTS = 200
"""Trials that are remembered per device and arithmetic, the latest ones."""
TERMS = ("flops", "passes", "optimizer_bytes")
"""What a step's time is made of, the most important first."""
ENOUGH = {3: 4, 2: 2}
"""Terms -> different points that they need: as many as terms would fit the noise of the third."""
ALIKE = 1e-3
"""Columns nearer to each other than this (smallest singular value at unit length) are one."""

Point = tuple[float, ...]
"""The TERMS of a step, and its measured seconds."""


@dataclass(frozen=True)
class TimeModel:
    """The parameters of one device under one arithmetic."""

    flop_s: float
    pass_s: float = 0.0
    byte_s: float = 0.0
    """Of an optimizer's traffic."""

    def step_time_s(self, work: Mapping[str, float]) -> float:
        """Predicted time of one optimizer step."""
        factors = (self.flop_s, self.pass_s, self.byte_s)
        return sum(factor * work.get(term, 0.0) for term, factor in zip(TERMS, factors, strict=True))


def fitted(points: Sequence[Point]) -> TimeModel | None:
    """Non-negative least squares of relative errors, with as many terms as the points can tell apart; None
    without a trial."""
    rows = [tuple(value / point[-1] for value in point[:-1]) for point in points if point[-1] > 0]
    if not rows:
        return None
    different = len({point[:-1] for point in points})
    for terms, least in ENOUGH.items():
        if different >= least and (factors := _factors([row[:terms] for row in rows]))[0] > 0:
            return TimeModel(*factors)
    return TimeModel(*_factors([row[:1] for row in rows]))


def _factors(rows: Sequence[Point]) -> tuple[float, ...]:
    """What brings the weighted sum of each row closest to 1; zeros where columns are alike."""
    import numpy as np
    from scipy.optimize import nnls

    columns = np.array(rows)
    lengths = np.linalg.norm(columns, axis=0)
    if not lengths.all() or np.linalg.matrix_rank(columns / lengths, tol=ALIKE) < len(rows[0]):
        return (0.0,) * len(rows[0])
    found, _ = nnls(columns / lengths, np.ones(len(rows)))
    return tuple(float(share) / float(length) for share, length in zip(found, lengths, strict=True))


def device_of(config: Config, machine: Machine) -> str | None:
    """The device that trials of this configuration run on; None where it is only supposed."""
    if uses_cuda(config, machine):
        return machine.cuda_devices[0] if machine.cuda_devices else None
    return f"cpu {machine.cpu}"


def device_key(device: str, config: Mapping[str, Any]) -> str:
    """Speeds are one thing per device, arithmetic and storage of the base."""
    threads, held = config["trial"]["threads"], from_dict(config).held_dtype
    arithmetic = config["precision"] + ("" if held == "float32" else f" over {held}")
    return " / ".join(map(str, (device, arithmetic, config["quantization"], threads)))


class TimeModels:
    """What is known of the speed of devices, kept in the cache."""

    def __init__(self, cache_dir: Path) -> None:
        self._path = cache_dir / FILE
        self._points: dict[str, list[Point]] = {}
        if self._path.exists():
            self._points = {
                key: [tuple(point) for point in points if len(point) == len(TERMS) + 1]
                for key, points in read_json(self._path).items()
            }

    def of(self, key: str) -> TimeModel | None:
        """The model of a device; None before its first trial."""
        return fitted(self._points.get(key, []))

    def learn(self, key: str, work: Mapping[str, float], seconds: float) -> None:
        """Take a measured step into account."""
        points = self._points.setdefault(key, [])
        points.append((*(work.get(term, 0.0) for term in TERMS), seconds))
        del points[:-MOST_POINTS]

    def save(self) -> None:
        """Keep what was learned for later studies."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._points)
