"""Passwords do not leave the process: URLs are masked before they are shown or recorded."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
"""What stands where a secret was."""

_PASSWORD_IN_URL = re.compile(r"(://[^:/@\s]*):[^\s'\"]*@")
_SECRET_IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd|token|secret|api_key)=)[^&\s'\"]*", re.IGNORECASE)


def mask(text: str) -> str:
    """The text with the password of every URL in it replaced by MASK.

    Known are `scheme://user:password@host` and query fields such as `?password=…`.
    """
    return _SECRET_IN_QUERY.sub(rf"\1{MASK}", _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", text))


def without_passwords(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration for a trial's record: its process needs neither the tracking nor the study's store."""
    stores = ("tracking", "study")
    return {name: mask_all(section) if name in stores else section for name, section in config.items()}


def mask_all(value: Any) -> Any:
    """A nested structure of dictionaries, lists and tuples with every string in it masked."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {key: mask_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_all(item) for item in value]
    return value
