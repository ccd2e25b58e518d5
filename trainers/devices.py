"""CUDA kept out of a process that will fork: its questions are answered by a child.

A process that has called into CUDA cannot fork children that use it. Libraries ask for devices while they are
imported (bitsandbytes picks its shared library by their compute capability), so the fork server imports them
inside `untouched`: a child asks the runtime, and torch's questions are answered from what it found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

import torch
from torch.cuda._utils import _get_device_index


class TouchedError(RuntimeError):
    """CUDA was used in a process that must fork."""


@contextmanager
def untouched() -> Iterator[None]:
    """Answer `torch.cuda`'s questions from a child, and refuse all else that would initialise CUDA.

    Raises TouchedError at the end when CUDA was used all the same: every trial would fail.
    """
    if not torch.cuda._is_compiled():
        yield
        return
    capabilities()  # asked before the way into CUDA is closed
    answers = {
        "is_available": lambda: bool(capabilities()),
        "device_count": lambda: len(capabilities()),
        "get_device_capability": _capability,
        "_lazy_init": _refuse,
    }
    module = vars(torch.cuda)
    saved = {name: module[name] for name in answers}
    module.update(answers)
    try:
        yield
    finally:
        module.update(saved)
    if _in_child(lambda: {"touched": torch.cuda._is_in_bad_fork()}).get("touched", True):
        raise TouchedError("the fork server must not use CUDA, but a library that it imports did")


@cache
def capabilities() -> tuple[tuple[int, int], ...]:
    """Compute capability of each CUDA device that this process may see; none where CUDA does not start."""
    found = _in_child(_ask)
    return tuple((major, minor) for major, minor in found.get("capabilities", ()))


def _ask() -> dict[str, Any]:
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # the runtime's word, not NVML's
    torch.cuda.init()  # type: ignore[no-untyped-call]
    count = range(torch.cuda.device_count())
    return {"capabilities": [torch.cuda.get_device_capability(index) for index in count]}


def _in_child(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    (answer,) = ask_children([ask])
    return answer


def ask_children(asks: Sequence[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
    """What each function returns in a fork of this process, all at a time; nothing for one that fails."""
    return [_hear(*child) for child in [_fork(ask) for ask in asks]]


def _fork(ask: Callable[[], dict[str, Any]]) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer(ask, write_end)
    os.close(write_end)
    return pid, read_end


def _hear(pid: int, read_end: int) -> dict[str, Any]:
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    answer: dict[str, Any] = json.loads(said or b"{}")
    return answer


def _answer(ask: Callable[[], dict[str, Any]], write_end: int) -> NoReturn:
    try:
        os.write(write_end, json.dumps(ask()).encode())
    finally:
        os._exit(0)  # also after an exception: a fork must never return into the caller's code


def _capability(device: Any = None) -> tuple[int, int]:
    return capabilities()[0 if device is None else _get_device_index(device)]


def _refuse(*_: Any) -> NoReturn:
    raise TouchedError("CUDA must not be used in a process that forks trials")
