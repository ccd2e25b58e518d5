"""A proposal becomes the specification of a trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

from sweeper.config.cell import Cell
from sweeper.contract.trial import TrialSpec
from sweeper.preflight.inputs import Identities
from sweeper.preflight.memory import MemoryScreen
from sweeper.preflight.slots import Slot
from sweeper.strategies.base import Proposal
from sweeper.study.masking import without_passwords
from sweeper.study.records import StudyRecord


@dataclass
class Specs:
    """Knows what a proposal means on this machine."""

    study: StudyRecord
    identities: Identities
    memory: MemoryScreen
    slot: Slot
    """One of the slots: all of them have equal shares of the machine."""
    cache_dir: Path
    _keys: WeakKeyDictionary[Proposal, str] = field(default_factory=WeakKeyDictionary)

    def key(self, proposal: Proposal) -> str:
        """Identity of the proposal's work."""
        if proposal not in self._keys:
            self._keys[proposal] = self.identities.key_of_any(self.fit(proposal), proposal.repeat)
        return self._keys[proposal]

    def fit(self, proposal: Proposal) -> Cell:
        """The cell as a slot measures it. A micro batch that is left to the prediction is a number here."""
        return self.memory.sized_if_possible(self.slot.fitted(proposal.cell))

    def compose(self, number: int, proposal: Proposal, cell: Cell, slot: Slot, heard: list[int]) -> TrialSpec:
        """What a trial of the fitted cell is asked to do in a slot; `heard` as in `TrialSpec`."""
        expected = self.memory.expected(cell.config)
        return TrialSpec(
            study=self.study.name,
            number=number,
            key=self.key(proposal),
            config=without_passwords(cell.config.to_dict()),
            identity=self.identities.identity(cell),
            overrides=dict(sorted(cell.overrides.items())),  # as they are read back
            generation=self.study.generation,
            devices=slot.device,
            threads=cell.config.trial.threads,
            cpus=list(slot.cpus) if slot.cpus else None,
            cache_dir=str(self.cache_dir.absolute()),
            stage=proposal.stage,
            repeat=proposal.repeat,
            heard=heard,
            predicted_memory_bytes=expected.predicted_bytes if expected else None,
            corrected_memory_bytes=expected.corrected_bytes if expected else None,
        )
