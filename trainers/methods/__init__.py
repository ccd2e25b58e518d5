"""The methods, a file each: what a trial does for it, what proves that it did, and what it costs in memory.

A file is found by standing here; its `METHOD` says all that the rest of the trial knows of it.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from trainers.methods.method import Cost, Facts, Method

__all__ = ["METHODS", "Cost", "Facts", "Method"]

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

METHODS: tuple[Method, ...] = tuple(module.METHOD for module in _MODULES if hasattr(module, "METHOD"))
"""All methods, in the order of their files' names."""
