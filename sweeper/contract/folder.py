"""The files of a trial's folder. Every file name of the contract is made here and nowhere else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweeper.contract.json_files import UnreadableFileError, read_json, write_json
from sweeper.contract.trial import MISSHAPEN, Outcome, TrialProgress, TrialResult, TrialSpec, known_fields


@dataclass(frozen=True)
class TrialFolder:
    """The files of one trial. Every file name of the contract is made here and nowhere else."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def progress(self) -> Path:
        return self.path / "progress.jsonl"

    @property
    def stop(self) -> Path:
        """Created by the driver to end the trial early: `{"outcome": …, "reason": …}`."""
        return self.path / "stop"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def stdout(self) -> Path:
        return self.path / "stdout.log"

    @property
    def stderr(self) -> Path:
        return self.path / "stderr.log"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def write_spec(self, spec: TrialSpec) -> None:
        """Create the folder with its specification. Raises FileExistsError if it is there."""
        self.path.mkdir(parents=True)
        write_json(self.spec, dataclasses.asdict(spec))

    def read_spec(self) -> TrialSpec:
        """Raises FileNotFoundError when the trial was never specified, else as `read_json`."""
        record = read_json(self.spec)
        try:
            return TrialSpec(**known_fields(TrialSpec, record))
        except MISSHAPEN as error:
            raise UnreadableFileError(self.spec, error) from error

    def write_result(self, result: TrialResult) -> None:
        write_json(self.result, result.to_json())

    def read_result(self) -> TrialResult | None:
        """The result, or None while there is none. A broken file is a crash that names it."""
        if not self.result.exists():
            return None
        try:
            return TrialResult.from_json(read_json(self.result))
        except MISSHAPEN as error:
            why = error if isinstance(error, UnreadableFileError) else UnreadableFileError(self.result, error)
            return TrialResult(Outcome.CRASHED, f"{why}, or measure it again with study.retry=[crashed]")

    def read_progress(self) -> list[TrialProgress]:
        """All whole lines so far; a line cut off by a kill is left out."""
        return list(_progress_lines(self.progress))


@dataclass(frozen=True)
class ProductionFolder(TrialFolder):
    """The files of a production run: those of a trial, and what it leaves for use."""

    @property
    def checkpoints(self) -> Path:
        """What a run that was cut off goes on from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The model, its card, and all that is needed to use and repeat it."""
        return self.path / "model"

    @property
    def merged(self) -> Path:
        """The base weights with the adapter merged into them."""
        return self.model / "merged"

    @property
    def card(self) -> Path:
        return self.model / "README.md"

    @property
    def config(self) -> Path:
        """The exact configuration."""
        return self.model / "sweeper.yaml"

    @property
    def promise(self) -> Path:
        """Figures of the trial beside those of the run."""
        return self.path / "promise.json"

    @property
    def tracking(self) -> Path:
        """Which MLflow run holds it."""
        return self.path / "tracking.json"

    @property
    def publish(self) -> Path:
        """What the publishing process is asked to do with the model."""
        return self.path / "publish.json"

    @property
    def published(self) -> Path:
        """What the publishing process did."""
        return self.path / "published.json"


def _progress_lines(path: Path) -> Iterator[TrialProgress]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                yield TrialProgress.from_json(json.loads(line))
            except MISSHAPEN:
                continue  # the process was killed in the middle of this line
