"""Records without what repeats in every trial: ten thousand of them must fit in memory."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

from sweeper.contract import TrialResult
from sweeper.records import TrialRecord
from sweeper.schema import HardwareConfig


class Lean:
    """Makes records share what they have in common."""

    def __init__(self, hardware: HardwareConfig) -> None:
        """`hardware`: as it is known today, so that costs are of today's price."""
        self._hardware = dataclasses.asdict(hardware)
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
        config = {**record.spec.config, "hardware": self._hardware}
        for name, section in config.items():
            if self._sections.setdefault(name, section) == section:
                config[name] = self._sections[name]
        return replace(record, spec=replace(record.spec, config=config), result=result, progress=[])
