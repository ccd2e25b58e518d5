"""Hashes and times, as records hold them."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any


def digest(value: Any, length: int = 16) -> str:
    """First `length` hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat()
