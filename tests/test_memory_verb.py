"""What a person is told of memory and time before anything runs, and what the sweep does with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.bill import Bill, Line, duration, summary
from sweeper.contract import GIB, Measurements, Outcome, TrialFolder, TrialResult, TrialSpec
from sweeper.contract_memory import MemoryPrediction
from sweeper.correction import Corrections, error_sentence, fitted
from sweeper.memory_screen import exceeds
from sweeper.prediction import Unpredictable, changes
from sweeper.records import TrialRecord
from sweeper.schema import BatchConfig, Config
from sweeper.time_model import TimeModels, device_key
from sweeper.time_model import fitted as fitted_time
from tests.commands import SHORT, sweeper, trials

KINDS = ("weights float32", "adapter", "optimizer state", "activations", "logits and loss")


def test_the_parts_of_a_predicted_peak_are_shown(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "memory", "model=hf", "model.path=arch:smollm2-135m", "data.max_length=64")
    assert done.returncode == 0, done.stderr
    assert all(kind in done.stdout for kind in KINDS)
    assert "Peaks by phase: load" in done.stdout and "4 sequences of 64 tokens" in done.stdout
    assert "no data was looked at" in done.stdout


def test_the_cheapest_changes_that_fit_are_named(tmp_path: Path) -> None:
    options = ("batch.micro=8", "batch.effective=8", "trial.memory_limit_gib=0.035", *SHORT)
    done = sweeper(tmp_path, "memory", *options)
    assert done.returncode == 1
    assert "does not fit trial.memory_limit_gib=0.035" in done.stdout
    assert "Cheapest single changes that make it fit" in done.stdout and "checkpointing=on" in done.stdout


def test_cuda_is_predicted_without_a_device(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "memory", "trial.device=cuda", "precision=fp16", "--json", *SHORT)
    (record,) = json.loads(done.stdout)
    assert done.returncode == 0 and record["device"] == "cuda"
    assert record["reserved_bytes"] >= record["peak_bytes"] == sum(record["parts"].values())
    assert record["context_bytes"] is None


def test_a_model_without_weights_is_not_swept(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "-m", "model=hf", "model.path=arch:llama-2-7b", "lora.r=8,16")
    assert done.returncode == 2
    assert "a trial needs a model with weights" in done.stderr
    unknown = sweeper(tmp_path, "memory", "model=hf", "model.path=arch:llama-9")
    assert unknown.returncode == 1 and "llama-2-7b" in unknown.stdout


def test_the_bill_counts_what_fits_and_what_is_wrong(tmp_path: Path) -> None:
    limits = ("trial.memory_limit_gib=0.03", "hardware.price_per_hour=2")
    done = sweeper(tmp_path, "plan", "-m", "batch.micro=1,8", *limits, *SHORT)
    assert done.returncode == 0, done.stderr
    assert "2 cells, 1 predicted not to fit: 1 to run" in done.stdout
    assert "Expected time: unknown" in done.stdout
    wrong = sweeper(tmp_path, "plan", "-m", "batch.micro=3,4", *SHORT)
    assert wrong.returncode == 2 and "batch.micro must divide batch.effective" in wrong.stderr
    assert "1 cells, 1 more are invalid" in wrong.stdout


def test_cells_that_cannot_fit_are_not_run(tmp_path: Path) -> None:
    options = ("batch.micro=1,8", "batch.effective=8", "trial.memory_limit_gib=0.03", *SHORT)
    done = sweeper(tmp_path, "-m", *options)
    by_micro = {record.spec.config["batch"]["micro"]: record for record in trials(tmp_path)}
    skipped = by_micro[8].result
    assert skipped is not None and skipped.outcome is Outcome.PREDICTED_OOM
    assert "memory.margin=0.1" in (skipped.reason or "")
    assert "1 predicted not to fit" in done.stdout
    assert by_micro[1].result is not None and by_micro[1].result.outcome is not Outcome.PREDICTED_OOM


def test_a_trial_records_what_was_predicted(tmp_path: Path) -> None:
    assert sweeper(tmp_path, "-m", "lora.r=8,16", *SHORT).returncode == 0
    first, second = trials(tmp_path)
    for record in (first, second):
        assert record.metric("predicted_memory_bytes") and record.metric("peak_memory_bytes")
    predicted, measured = first.metric("predicted_memory_bytes"), first.metric("peak_memory_bytes")
    corrected, uncorrected = second.metric("corrected_memory_bytes"), second.metric("predicted_memory_bytes")
    assert predicted and measured and corrected and uncorrected
    assert corrected - uncorrected == measured - predicted, "the first trial corrects the second"
    again = sweeper(tmp_path, "plan", "-m", "lora.r=8,32", "hardware.price_per_hour=2", *SHORT)
    assert "device hours, price" in again.stdout


def test_the_papers_figures_stand_beside_the_predicted_ones(tmp_path: Path) -> None:
    done = sweeper(tmp_path, "paper")
    assert done.returncode == 0, done.stderr
    assert "weights of 3B parameters in fp32: paper 12 GB, predicted 11." in done.stdout
    assert "contradicted: factored second moments" in done.stdout


def record(predicted: int, measured: int, number: int = 0) -> TrialRecord:
    found = Measurements(predicted_memory_bytes=predicted, peak_memory_bytes=measured)
    spec = TrialSpec("study", number, str(number), Config().to_dict())
    return TrialRecord(spec, TrialResult(Outcome.COMPLETED, measurements=found), TrialFolder(Path("-")))


def test_a_correction_is_a_constant_first_and_a_factor_later() -> None:
    assert fitted([]).of(100) == 100
    assert fitted([(100, 130)]).of(200) == 230
    line = fitted([(100, 120), (200, 230), (300, 340)])
    assert line.factor == pytest.approx(1.1) and line.of(400) == pytest.approx(450)
    assert fitted([(100, 100), (200, 300), (300, 500)]).factor == 1.25, "no residual is that steep"


def test_a_code_path_is_corrected_by_its_own_trials() -> None:
    corrections = Corrections([record(100, 150)])
    other = {**Config().to_dict(), "quantization": "nf4"}
    assert corrections.of(Config().to_dict()).of(100) == 150
    assert corrections.of(other).of(100) == 150, "of all, while it has none of its own"
    corrections.learn(replace(record(100, 110), spec=TrialSpec("study", 1, "1", other)))
    assert corrections.of(other).of(100) == 110
    assert error_sentence([record(100, 125)]) is not None and error_sentence([]) is None


def test_step_times_are_fitted_to_work_and_passes() -> None:
    points = [
        (flops, passes, flops / 1e9 + passes * 0.01) for flops, passes in ((1e9, 1), (2e9, 4), (5e9, 2))
    ]
    model = fitted_time(points)
    assert model is not None
    assert model.step_time_s({"flops": 3e9, "passes": 8}) == pytest.approx(3.08)
    assert fitted_time([]) is None
    lone = fitted_time([(2e9, 1, 4.0)])
    assert lone is not None and lone.step_time_s({"flops": 1e9, "passes": 1}) == pytest.approx(2)


def test_speeds_are_remembered_per_device(tmp_path: Path) -> None:
    models, key = TimeModels(tmp_path), device_key("cpu x", Config().to_dict())
    models.learn(key, {"flops": 1e9, "passes": 1}, 1.0)
    models.save()
    assert TimeModels(tmp_path).of(key) is not None and TimeModels(tmp_path).of("other") is None


def test_the_margin_protects_what_may_fit() -> None:
    predicted = MemoryPrediction(105, "backward", {"weights": 105})
    assert not exceeds(predicted, 100, 0.1) and exceeds(predicted, 100, 0.01)


def test_a_bill_adds_up() -> None:
    fits = MemoryPrediction(GIB, "backward", {"weights": GIB})
    lines = (Line("a", fits, 1800.0, False), Line("b", fits, 1800.0, False), Line("c", fits, 9.0, True))
    bill = Bill(lines, (), 3.0, 3600.0)
    assert bill.time_s == 3600 and bill.price == 3.0
    assert next(iter(summary(bill))) == "3 cells, 1 predicted not to fit: 2 to run"
    unknown = Bill((Line("a", Unpredictable("x"), None, False),), (), 3.0, 0.0)
    assert unknown.time_s is None and unknown.price is None
    assert (duration(30), duration(600), duration(7200)) == ("30 s", "10 min", "2.0 h")


def test_changes_start_with_those_that_cost_least() -> None:
    config = replace(Config(), batch=BatchConfig(8, 16, 2), attention="eager")
    found = [change.override for change in changes(config)]
    assert found[0] == "attention=sdpa" and found.index("batch.micro=4") < found.index("checkpointing=on")
    assert "quantization=nf4" in found
    full = [change.override for change in changes(replace(config, adapter="full"))]
    assert "adapter=lora" in full and "quantization=nf4" not in full
