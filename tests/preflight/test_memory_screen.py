"""What a sweep does with predictions: which cells it skips, and when it reconsiders. Played, not trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.cell import Cell, ConfigurationError
from sweeper.contract.config import BatchConfig, Config, TrialConfig
from sweeper.contract.folder import TrialFolder
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.measurements import Measurements
from sweeper.contract.prediction import MemoryPrediction
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from sweeper.launchers.recorded import RecordedJob, RecordedLauncher, Recording
from sweeper.preflight.memory import MemoryScreen
from sweeper.study.records import TrialRecord
from tests.support.recorded import answer, play

MIB = 2**20


@dataclass
class Predicting(RecordedLauncher):
    """Predicts 100 MiB for each sequence of a micro batch, and half as much again for the allocator."""

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> RecordedJob:
        if verb != "memory":
            return super().submit(verb, folder, stdout, stderr)
        asked = read_json(folder / "memory.json")["configs"]
        write_json(folder / "predicted.json", {"cells": [predicted(config).to_json() for config in asked]})
        done = Recording(TrialResult(Outcome.COMPLETED))
        return RecordedJob(TrialFolder(folder), done, self.now_s, exit_code=0)


def predicted(config: dict[str, Any]) -> MemoryPrediction:
    peak = 100 * MIB * config["batch"]["micro"]
    if config["trial"]["device"] == "cuda":
        return MemoryPrediction(peak, "backward", device="cuda", reserved_bytes=peak * 3 // 2)
    return MemoryPrediction(peak, "backward", private_bytes=peak * 3 // 2)


def screen(folder: Path) -> MemoryScreen:
    return MemoryScreen(Predicting(answer), folder)


def config(micro: int, limit_mib: float, device: str = "cpu") -> Config:
    trial = TrialConfig(device=device, memory_limit_gib=limit_mib / 1024)  # type: ignore[arg-type]
    return replace(Config(), batch=BatchConfig(micro, 16, 16 // micro), trial=trial)


def finished(micro: int, measured_mib: int, device: str = "cpu") -> TrialRecord:
    found = Measurements(predicted_memory_bytes=100 * MIB * micro, peak_memory_bytes=measured_mib * MIB)
    spec = TrialSpec("study", micro, str(micro), config(micro, 1000, device).to_dict())
    return TrialRecord(spec, TrialResult(Outcome.COMPLETED, measurements=found), TrialFolder(Path("-")))


def test_an_automatic_micro_batch_is_the_largest_divisor_that_is_predicted_to_fit(tmp_path: Path) -> None:
    asked = replace(config(1, 700), batch=BatchConfig("auto", 16, None))
    sized = screen(tmp_path).sized(Cell({}, asked))
    assert sized.config.batch == BatchConfig(4, 16, 4), "600 MiB fit 700, 1200 do not"
    unlimited = replace(asked, trial=TrialConfig(device="cpu"))
    with pytest.raises(ConfigurationError, match="no limit is known"):
        screen(tmp_path).sized(Cell({}, unlimited))
    tight = replace(asked, trial=TrialConfig(device="cpu", memory_limit_gib=0.01))
    assert screen(tmp_path).sized(Cell({}, tight)).config.batch.micro == 1


def test_an_automatic_micro_batch_fits_what_a_display_leaves_of_its_device(tmp_path: Path) -> None:
    asked = replace(config(1, 1300, "cuda"), batch=BatchConfig("auto", 16, None))
    desktop = MemoryScreen(Predicting(answer), tmp_path, device_bytes=2000 * MIB, free_bytes=700 * MIB)
    assert desktop.sized(Cell({}, asked)).config.batch.micro == 4
    assert desktop.limit_bytes(asked) == 1300 * MIB, "what is skipped must not vary with the display"
    alone = MemoryScreen(Predicting(answer), tmp_path, device_bytes=2000 * MIB, free_bytes=1900 * MIB)
    assert alone.sized(Cell({}, asked)).config.batch.micro == 8


def test_trials_that_took_less_protect_cells_from_being_skipped(tmp_path: Path) -> None:
    looking = screen(tmp_path)
    assert looking.is_skipped(config(8, 600))
    looking.on_end(finished(4, 300))
    assert not looking.is_skipped(config(8, 720)), "the first one does"
    assert looking.is_skipped(config(16, 600))


def test_trials_that_took_more_have_cells_skipped_once_they_are_several(tmp_path: Path) -> None:
    looking = screen(tmp_path)
    for micro in (1, 2, 4):
        assert not looking.is_skipped(config(8, 750, "cuda")), "not yet"
        looking.on_end(finished(micro, 120 * micro, "cuda"))
    assert looking.is_skipped(config(8, 750, "cuda"))
    verdict = looking.verdict(config(8, 750, "cuda"))
    assert verdict is not None and "corrected by this study's trials" in (verdict.reason or "")
    resident = screen(tmp_path)
    for micro in (1, 2, 4):
        resident.on_end(finished(micro, 120 * micro))
    assert not resident.is_skipped(config(8, 750)), "resident memory is not what a CPU's limit counts"


def test_skipped_cells_are_run_once_they_are_asked_for(tmp_path: Path) -> None:
    sweep = ("batch.micro=auto,8", "trial.memory_limit_gib=0.5", "study.name=s")
    first = play(tmp_path, *sweep, launcher=Predicting(answer))
    outcomes = [record.result.outcome for record in first.records if record.result]
    assert outcomes == [Outcome.COMPLETED, Outcome.PREDICTED_OOM]
    assert any(line.startswith("2 cells, 1 predicted not to fit: 1 to run") for line in first.lines)
    fitted = first.records[0].spec
    assert fitted.config["batch"] == {"micro": 2, "effective": 16, "accumulation": 8}
    assert fitted.predicted_memory_bytes == 200 * MIB
    assert any("batch.micro is 2" in line for line in first.lines)
    forced = play(tmp_path, *sweep, "memory.skip=never", launcher=Predicting(answer))
    assert forced.launcher.started == 1 and len(forced.records) == 3
    assert any(line.startswith("1 cell: 1 to run") for line in forced.lines), "what is left alone is counted"


@dataclass
class Blind(Predicting):
    """Predicts nothing where two values meet that it predicts with others."""

    def submit(self, verb: str, folder: Path, stdout: Path, stderr: Path) -> RecordedJob:
        job = super().submit(verb, folder, stdout, stderr)
        if verb == "memory":
            asked, found = read_json(folder / "memory.json"), read_json(folder / "predicted.json")
            for config, cell in zip(asked["configs"], found["cells"], strict=True):
                if config["precision"] == "bf16" and config["optim"] == "adafactor":
                    cell["error"] = "its kernels are unknown"
            write_json(folder / "predicted.json", found)
        return job


def test_a_drawn_cell_whose_micro_batch_cannot_be_predicted_ends_no_study(tmp_path: Path) -> None:
    sizes = ("batch.micro=auto", "trial.memory_limit_gib=0.5", "batch.effective=4")
    asked = (*sizes, "precision=fp32,bf16", "optim=adamw,adafactor", "search.n_trials=4")
    played = play(tmp_path, *asked, launcher=Blind(answer))
    outcomes = {record.label: record.result.outcome for record in played.records if record.result}
    refused = outcomes.pop("optim=adafactor precision=bf16")
    assert refused is Outcome.INVALID and set(outcomes.values()) == {Outcome.COMPLETED} and len(outcomes) == 3
    (record,) = (item for item in played.records if item.result and item.result.outcome is Outcome.INVALID)
    assert record.result is not None and "its kernels are unknown" in (record.result.reason or "")
    again = play(tmp_path, *asked, launcher=Blind(answer))
    assert again.launcher.started == 0 and len(again.records) == 4


def test_searches_say_that_predictions_come_one_by_one(tmp_path: Path) -> None:
    done = play(tmp_path, "batch.micro=1,2,4", "search.n_trials=2", launcher=Predicting(answer))
    assert "2 cells: memory and time are predicted as each one's turn comes" in done.lines
