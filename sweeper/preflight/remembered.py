"""Answers of looks and predictions, kept in the cache folder until something that they rest on changes.

An answer is kept under a digest of what was asked, the versions, the machine, the installed packages, and
size and times of every file that it was made from. What rests on a hub is not kept: nobody can see it change.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sweeper.contract.config import Config
from sweeper.contract.stamps import digest
from sweeper.machine import Machine, versions

SHIPPED = ("embedded:", "arch:")
"""How paths begin that lie in our own packages."""
MOST_FILES = 5000
"""Files of a folder above which its answers are not kept: looking at more takes as long as asking."""
MOST_KEPT = 2000
"""Answers in a file; older ones are dropped."""

Stamp = tuple[str, int, int, int]
"""A file's path, its size, and its times of modification and of change in nanoseconds."""


class Remembered:
    """One kind of answer: lines of `<cache>/<name>.jsonl`. A file that cannot be read holds none."""

    def __init__(self, cache_dir: Path, name: str, machine: Machine) -> None:
        self._path = cache_dir / f"{name}.jsonl"
        self._machine = _describe(machine)
        self._stamps: dict[tuple[str, ...], list[Stamp] | None] = {}
        self._answers = _read(self._path)

    def key(self, config: Config, question: str) -> str | None:
        """What the answer to `question` about a configuration is kept under; None where it is not kept."""
        paths = _paths(config)
        if paths is None:
            return None
        if paths not in self._stamps:
            self._stamps[paths] = _stamps(paths)
        stamps = self._stamps[paths]
        return None if stamps is None else digest([question, stamps, *self._machine, *_installation()])

    def get(self, key: str | None) -> Any | None:
        """The answer that is kept, or None."""
        return None if key is None else self._answers.get(key)

    def put(self, answers: Mapping[str | None, Any]) -> None:
        """Keep answers, each under the key that it had before it was asked for."""
        new = {key: answer for key, answer in answers.items() if key is not None}
        self._answers |= new
        with suppress(OSError):  # a cache that cannot be written costs time alone
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                # each begins its line itself: what was cut off before takes no other with it
                file.writelines("\n" + json.dumps([key, answer]) for key, answer in new.items())


def _describe(machine: Machine) -> list[Any]:
    """What answers may rest on; free memory changes all the time and is none of it."""
    devices = [[item.name, item.capability, item.total_bytes, item.error] for item in machine.devices]
    software = [machine.torch, machine.build, machine.runtime, machine.driver]
    return [devices, machine.cpu, sorted(machine.kernels), *software]


def _read(path: Path) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return answers
    for line in lines:
        with suppress(ValueError, TypeError):
            key, answer = json.loads(line)
            answers[key] = answer
    if len(lines) > MOST_KEPT:
        kept = list(answers.items())[-MOST_KEPT // 2 :]
        _rewrite(path, "".join("\n" + json.dumps(item) for item in kept))
    return answers


def _rewrite(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError):
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def _paths(config: Config) -> tuple[str, ...] | None:
    """The files and folders that a configuration names; None when it names something that is no file."""
    model, data = config.model, dataclasses.asdict(config.data)
    named = [value for name, value in data.items() if name.endswith("path") and value is not None]
    paths = [path for path in (model.path, *named) if not path.startswith(SHIPPED)]
    if model.trust_remote_code or not all(Path(path).exists() for path in paths):
        return None
    if any((Path(path) / "adapter_config.json").exists() for path in paths):
        return None  # its base lies elsewhere
    return tuple(sorted(os.path.abspath(path) for path in paths))


def _stamps(paths: tuple[str, ...]) -> list[Stamp] | None:
    """The stamps of all files; None when they are too many, or vanish."""
    found: list[Stamp] = []
    try:
        for file in (file for path in paths for file in _files(path)):
            stat = os.stat(file)
            found.append((file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
            if len(found) > MOST_FILES:
                return None
    except OSError:
        return None
    return sorted(found)


def _files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    for folder, names, files in os.walk(path, followlinks=True):
        names[:] = [name for name in names if name != "__pycache__"]
        yield from (os.path.join(folder, name) for name in files)


@cache
def _installation() -> tuple[Any, ...]:
    """What answers rest on besides files of the user's: versions, packages, the trial's own code, threads."""
    spec = find_spec("trainers")
    sources = tuple((spec and spec.submodule_search_locations) or ())
    packages = os.stat(sysconfig.get_path("purelib")).st_mtime_ns
    threads = [len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS")]
    return versions(), packages, _stamps(sources), threads
