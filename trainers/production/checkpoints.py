"""Checkpoints of a production run: all that makes the next step what it would have been.

    checkpoints/step-00000050/tensors.safetensors   trainable weights, optimizer state, RNG states
                              state.json            everything else, and where each tensor belongs

A checkpoint appears whole (made under another name, flushed to the disk, renamed), so a process may be
killed at any moment. Nothing in it is code: no pickle is written or read.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from sweeper.contract.json_files import read_json, write_json
from trainers.loops import Training
from trainers.production.packing import pack, unpack


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on the disk."""

    path: Path
    step: int
    facts: dict[str, Any]
    """What `Checkpoints.save` was given."""

    def restore(self, training: Training) -> None:
        """Bring weights, optimizer, schedule, loss scaler and random numbers to where they were."""
        state = unpack(read_json(self.path / "state.json")["training"], self._tensors())
        restore_weights(training.model, state["weights"])
        _restore_optimizer(training.optimizer, state["optimizer"])
        training.scheduler.load_state_dict(state["scheduler"])
        if training.scaler is not None:
            training.scaler.load_state_dict(state["scaler"])
        _restore_random(state["random"])

    def restore_weights(self, model: nn.Module) -> None:
        """Bring only the weights back."""
        state = unpack(read_json(self.path / "state.json")["training"], self._tensors())
        restore_weights(model, state["weights"])

    def _tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.path / "tensors.safetensors")


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        """`keep`: how many of the newest are kept."""
        self._folder = folder
        self._keep = keep

    def save(self, training: Training, step: int, facts: dict[str, Any]) -> None:
        """Write a checkpoint; when this returns it is on the disk."""
        tensors: dict[str, torch.Tensor] = {}
        state = {"step": step, "facts": facts, "training": pack(_state(training), tensors)}
        making = self._folder / f".making-{step:08d}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        save_file(tensors, making / "tensors.safetensors")
        _flush(making / "tensors.safetensors")
        write_json(making / "state.json", state)
        _flush(making)
        os.rename(making, self._path(step))
        _flush(self._folder)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read. One that cannot is set aside: the disk lost it."""
        for step in sorted(self._steps(), reverse=True):
            try:
                return self.at(step)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                print(f"{self._path(step)} cannot be read ({error}); going on from the one before")  # noqa: T201 - into the run's log
                shutil.rmtree(self._folder / f".unreadable-{step:08d}", ignore_errors=True)
                os.rename(self._path(step), self._folder / f".unreadable-{step:08d}")
        return None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step. Raises OSError, ValueError, KeyError or SafetensorError when it cannot
        be read."""
        path = self._path(step)
        state = read_json(path / "state.json")
        found = Checkpoint(path, int(state["step"]), dict(state["facts"]))
        if step != found.step or not found._tensors():
            raise ValueError("it holds another step or no tensors")
        return found

    def prune(self, best: int | None) -> None:
        """Remove what is neither among the newest nor the best."""
        for step in sorted(self._steps())[: -self._keep]:
            if step != best:
                shutil.rmtree(self._path(step))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        return [int(path.name.removeprefix("step-")) for path in self._folder.glob("step-*")]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _state(training: Training) -> dict[str, Any]:
    return {
        "weights": dict(_trainable(training.model)),
        "optimizer": _optimizer_state(training.optimizer),
        "scheduler": training.scheduler.state_dict(),
        "scaler": training.scaler.state_dict() if training.scaler is not None else None,
        "random": _random_state(),
    }


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def restore_weights(model: nn.Module, saved: dict[str, torch.Tensor]) -> None:
    """Copy weights into the trainable parameters, which must be the same ones."""
    weights = _trainable(model)
    if weights.keys() != saved.keys():
        raise ValueError(f"a checkpoint must fit the model, but differs in {weights.keys() ^ saved.keys()}")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[name])


def _optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """State by the position of its parameter, as it is: `Optimizer.state_dict` lets libraries wrap it."""
    groups = [
        {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]
    return {
        "groups": groups,
        "state": [dict(optimizer.state.get(weight, {})) for weight in _weights(optimizer)],
    }


def _weights(optimizer: Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _restore_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Put the state back bit by bit. `Optimizer.load_state_dict` would cast it to the weights' type."""
    for group, values in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update(values)
    _make_state(optimizer, [bool(state) for state in saved["state"]])
    for weight, state in zip(_weights(optimizer), saved["state"], strict=True):
        if state:
            made = optimizer.state[weight]
            for name, value in state.items():
                made[name] = _put(made.get(name), value)


def _make_state(optimizer: Optimizer, filled: list[bool]) -> None:
    """Let bitsandbytes make its own state, to be filled: shared maps and paged memory are its business."""
    make: Callable[..., None] | None = getattr(optimizer, "init_state", None)
    if make is None:
        return
    optimizer.check_overrides()  # type: ignore[attr-defined]  # what its first step does
    optimizer.to_gpu()  # type: ignore[attr-defined]
    optimizer.initialized = True  # type: ignore[attr-defined]
    wanted = iter(filled)
    for group_index, group in enumerate(optimizer.param_groups):
        for index, weight in enumerate(group["params"]):
            if next(wanted):
                make(group, weight, group_index, index)


def _put(made: Any, value: Any) -> Any:
    """The saved value, in the memory that is there for it if there is any."""
    fits = isinstance(made, torch.Tensor) and isinstance(value, torch.Tensor) and made.shape == value.shape
    return made.copy_(value) if fits else value


def _random_state() -> dict[str, Any]:
    on_cuda = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    generator = np.random.get_state(legacy=False)
    return {
        "python": json.loads(json.dumps(random.getstate())),
        "numpy": {**generator, "state": {**generator["state"], "key": generator["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if on_cuda else None,
    }


def _restore_random(saved: dict[str, Any]) -> None:
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(saved["numpy"])
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"])
