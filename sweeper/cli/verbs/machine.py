"""`python -m sweeper machine [--json]`: what trials will see of this machine, and which methods run on it."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.config.cell import ConfigurationError
from sweeper.contract.trial import GIB, Problem

if TYPE_CHECKING:
    from sweeper.machine import Machine
    from sweeper.preflight.methods import Method

Ceilings = Mapping[str, Mapping[str, float | None]]


def run(options: Sequence[str], flags: Namespace) -> int:
    """Print devices, methods and, on a GPU, measured ceilings; 1 when trials cannot use the GPU.

    Raises ConfigurationError for arguments that are no flags.
    """
    from sweeper.preflight.methods import find_general_problems, judge_methods
    from sweeper.preflight.sight import look_closely

    if options:
        problems = [
            Problem("machine takes no arguments", "the argument", item, "leave it out") for item in options
        ]
        raise ConfigurationError([(problem, "") for problem in problems])
    here, ceilings = look_closely()
    methods, trouble = judge_methods(here), find_general_problems(here)
    if flags.json:
        print(json.dumps(_record(here, methods, ceilings), indent=2))
    else:
        said = [f"{item.rule}: {item.remedy}" for item in trouble]
        said += ["With trial.device=cpu:"] if trouble else []
        print("\n".join([*_devices(here), "", *said, *_methods(methods), *_ceilings(ceilings)]))
    return 1 if trouble else 0


def _record(here: Machine, methods: Sequence[Method], ceilings: Ceilings) -> dict[str, Any]:
    return {
        **dataclasses.asdict(here),
        "kernels": sorted(here.kernels),
        "device": here.device,
        "methods": {
            method.override: [dataclasses.asdict(problem) for problem in method.problems]
            for method in methods
        },
        "ceilings": ceilings,
    }


def _devices(here: Machine) -> Iterator[str]:
    built = f", built for {here.build.upper()} {here.runtime or ''}".rstrip() if here.build else ""
    yield f"torch {here.torch or 'is not installed'}{built}"
    if here.driver:
        yield f"driver {here.driver}"
    yield f"CPU {here.cpu or 'unknown'}"
    for device in here.devices:
        parts = [f"GPU {device.visible_as}: {device.name or 'unknown'}"]
        if device.capability is not None:
            parts.append("capability {}.{}".format(*device.capability))
        if device.total_bytes is not None:
            parts.append(f"{_gib(device.free_bytes)} of {_gib(device.total_bytes)} free")
        if device.error is not None:
            parts.append(f"does not start: {device.error}")
        yield ", ".join(parts)
    yield f"Trials run on {here.device}"


def _methods(methods: Sequence[Method]) -> Iterator[str]:
    for method in methods:
        why = "; ".join(f"{item.rule}: {item.remedy}" for item in method.problems)
        yield f"  {method.override:<30}{why or 'runs here'}"


def _ceilings(ceilings: Ceilings) -> Iterator[str]:
    for name, rates in ceilings.items():
        product, copy = rates.get("bf16"), rates.get("copy")
        yield ""
        yield f"Measured on {name}:"
        yield f"  bf16 matrix product   {'unknown' if product is None else f'{product / 1e12:,.1f} TFLOP/s'}"
        yield f"  memory bandwidth      {'unknown' if copy is None else f'{copy / 1e9:,.0f} GB/s'}"


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / GIB:,.1f} GiB"
