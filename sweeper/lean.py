"""Records without what repeats in every trial: ten thousand of them must fit in memory."""

from __future__ import annotations

from dataclasses import replace

from sweeper.contract import TrialResult
from sweeper.records import TrialRecord


class Lean:
    """Makes records share what they have in common."""

    def __init__(self) -> None:
        self._shared: TrialResult | None = None
        self._sections: dict[str, object] = {}

    def of(self, record: TrialRecord) -> TrialRecord:
        """The same record, without its lines of progress."""
        result, last = record.result, self._shared
        if result is None:
            return record
        if last is not None:
            same = {
                name: getattr(last, name)
                for name in ("environment", "definitions", "active")
                if getattr(last, name) == getattr(result, name)
            }
            result = replace(result, **same)
        self._shared = result
        config = dict(record.spec.config)
        for name, section in config.items():
            if self._sections.setdefault(name, section) == section:
                config[name] = self._sections[name]
        return replace(record, spec=replace(record.spec, config=config), result=result, progress=[])
