"""What a person is told of memory and time before anything runs, and what the sweep does with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.cli.verbs import paper
from sweeper.contract.config import (
    BatchConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    LoraSettings,
    TrainConfig,
    TrialConfig,
)
from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import Measurements
from sweeper.contract.prediction import MemoryPrediction
from sweeper.contract.scopes import memory_identity
from sweeper.contract.trial import GIB, Outcome, TrialResult, TrialSpec
from sweeper.launchers.local import LocalLauncher, local_launcher
from sweeper.machine import Device, Machine
from sweeper.preflight import plan as preflight_plan
from sweeper.preflight.bill import Bill, Line, duration, evaluated_tokens, summary, trial_time_s
from sweeper.preflight.correction import Corrections, fitted
from sweeper.preflight.fixes import changes, combination
from sweeper.preflight.memory import exceeds
from sweeper.preflight.prediction import Unpredictable
from sweeper.preflight.time import TimeModels, device_key, device_of
from sweeper.preflight.time import fitted as fitted_time
from sweeper.report.memory import error_sentence
from sweeper.study.records import TrialRecord
from tests.support.commands import SHORT, sweeper, trials
from tests.support.stores import with_store

KINDS = ("weights float32", "adapter", "optimizer state", "activations", "logits and loss")


@dataclass
class Said:
    """What a verb printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


Ask = Callable[..., Said]


@pytest.fixture(scope="module")
def warm() -> Iterator[LocalLauncher]:
    """One fork server for all: starting it takes longer than most predictions."""
    with local_launcher() as launcher:
        yield launcher


@pytest.fixture
def ask(
    warm: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ask:
    """Run a verb in this process: `ask("memory", "lora.r=8")`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight_plan, "local_launcher", lambda: nullcontext(warm))

    def run(verb: str, *arguments: str) -> Said:
        code = main([verb, *arguments])
        printed = capsys.readouterr()
        return Said(code, printed.out, printed.err)

    return run


def test_the_parts_of_a_predicted_peak_are_shown(ask: Ask) -> None:
    done = ask("memory", "model=hf", "model.path=arch:smollm2-135m", "data.max_length=64")
    assert done.returncode == 0, done.stderr
    assert all(kind in done.stdout for kind in KINDS)
    assert "Peaks by phase: load" in done.stdout and "4 sequences of 64 tokens" in done.stdout
    assert "no data was looked at" in done.stdout and "needed in all" in done.stdout


def test_the_cheapest_changes_that_fit_are_named(ask: Ask) -> None:
    options = ("batch.micro=8", "batch.effective=8", "trial.memory_limit_gib=0.14", *SHORT)
    done = ask("memory", *options)
    assert done.returncode == 1
    assert "does not fit trial.memory_limit_gib=0.14: a trial needs" in done.stdout
    assert "Cheapest single changes that make it fit" in done.stdout and "checkpointing=on" in done.stdout


def test_cuda_is_predicted_without_a_device(ask: Ask) -> None:
    done = ask("memory", "trial.device=cuda", "precision=fp16", "--json", *SHORT)
    (record,) = json.loads(done.stdout)
    assert done.returncode == 0 and record["device"] == "cuda"
    assert record["reserved_bytes"] >= record["peak_bytes"] == sum(record["parts"].values())
    assert record["context_bytes"] is None and record["fits"] is None
    assert record["needed_bytes"] == record["reserved_bytes"]


def test_the_micro_batch_is_the_largest_that_fits(ask: Ask) -> None:
    options = ("batch.effective=8", "trial.memory_limit_gib=0.09", "data.max_length=64", *SHORT)
    chosen = json.loads(ask("memory", "batch.micro=auto", "--json", *options).stdout)[0]
    tried = json.loads(ask("memory", "batch.micro=1,2,4,8", "--json", *options).stdout)
    assert chosen["micro"] == max(record["micro"] for record in tried if record["fits"]) < 8
    refused = ask("memory", "batch.micro=auto", "trial.memory_limit_gib=null", "trial.device=cpu")
    assert refused.returncode == 2 and "batch.micro=auto needs a limit to fit" in refused.stderr
    both = ask("plan", "batch.micro=auto", "batch.accumulation=2", "trial.memory_limit_gib=1")
    assert both.returncode == 2 and "batch.micro=auto decides batch.accumulation too" in both.stderr
    paper = ask("plan", "-m", "strategy=paper", "batch.micro=auto,2", "trial.memory_limit_gib=1")
    assert paper.returncode == 2 and "strategy=paper finds the micro batch by measuring" in paper.stderr


def test_a_plan_lists_what_the_sweep_would_refuse(ask: Ask) -> None:
    no_weights = ask("plan", "-m", "model=hf", "model.path=arch:smollm2-135m", "lora.r=8,16")
    assert no_weights.returncode == 2 and "a trial needs a model with weights" in no_weights.stderr
    targets = ask("plan", "-m", "lora.target_modules=[q_proj],[nothing]", "trial.device=cuda", *SHORT)
    assert targets.returncode == 2 and "nothing" in targets.stderr
    assert "Supposing a CUDA device: this machine has none" in targets.stdout
    assert "1 cell, 1 more is invalid: 1 to run" in targets.stdout
    assert "Expected time: unknown" in targets.stdout


def test_an_unknown_architecture_is_answered_with_those_that_ship(ask: Ask) -> None:
    unknown = ask("memory", "model=hf", "model.path=arch:llama-9")
    assert unknown.returncode == 1 and "llama-2-7b" in unknown.stdout
    assert "while the configuration was read" in unknown.stdout


def test_a_model_without_weights_is_not_swept(tmp_path: Path) -> None:
    done = sweeper(with_store(tmp_path), "-m", "model=hf", "model.path=arch:llama-2-7b", "lora.r=8,16")
    assert done.returncode == 2
    assert "a trial needs a model with weights" in done.stderr


def test_the_bill_counts_what_fits_and_what_is_wrong(ask: Ask) -> None:
    limits = ("trial.memory_limit_gib=0.03", "hardware.price_per_hour=2")
    done = ask("plan", "-m", "batch.micro=1,8", *limits, *SHORT)
    assert done.returncode == 0, done.stderr
    assert "2 cells, 1 predicted not to fit: 1 to run" in done.stdout
    assert "Expected time: unknown" in done.stdout
    wrong = ask("plan", "-m", "batch.micro=3,4", *SHORT)
    assert wrong.returncode == 2 and "batch.micro must divide batch.effective" in wrong.stderr
    assert "1 cell, 1 more is invalid" in wrong.stdout


def test_a_tight_limit_is_skipped_and_a_fitted_one_completes(tmp_path: Path) -> None:
    cells = ("-m", "batch.micro=16,auto", "trial.memory_limit_gib=0.07")
    done = sweeper(with_store(tmp_path), *cells, *SHORT)
    skipped, fitted = trials(tmp_path)
    assert fitted.result is not None and fitted.result.outcome is Outcome.COMPLETED, done.stdout
    assert fitted.spec.config["batch"]["micro"] == 1 and "batch.micro is 1" in done.stdout
    assert skipped.result is not None and skipped.result.outcome is Outcome.PREDICTED_OOM
    assert "memory.margin=0.1" in (skipped.result.reason or "")
    assert "1 predicted not to fit" in done.stdout


def test_a_trial_records_what_was_predicted(tmp_path: Path, ask: Ask) -> None:
    assert sweeper(with_store(tmp_path), "-m", "lora.r=8,16", *SHORT).returncode == 0
    first, second = trials(tmp_path)
    for record in (first, second):
        assert record.metric("predicted_memory_bytes") and record.metric("peak_memory_bytes")
    predicted, measured = first.metric("predicted_memory_bytes"), first.metric("peak_memory_bytes")
    corrected, uncorrected = second.metric("corrected_memory_bytes"), second.metric("predicted_memory_bytes")
    assert predicted and measured and corrected and uncorrected
    assert corrected - uncorrected == measured - predicted, "the first trial corrects the second"
    again = ask("plan", "-m", "lora.r=8,32", "hardware.price_per_hour=2", *SHORT)
    assert "device hours, price" in again.stdout


def test_the_papers_figures_stand_beside_the_predicted_ones(ask: Ask) -> None:
    done = ask("paper")
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


def work(flops: float, passes: float = 1.0, optimizer_bytes: float = 1e6) -> dict[str, float]:
    return {"flops": flops, "passes": passes, "optimizer_bytes": optimizer_bytes}


def step_s(work: dict[str, float]) -> float:
    return work["flops"] / 1e9 + work["passes"] * 0.01 + work["optimizer_bytes"] / 1e8


def test_step_times_are_fitted_to_work_and_passes_and_then_to_the_optimizers_traffic() -> None:
    done = [work(1e9, 1, 1e8), work(2e9, 4, 1e6), work(5e9, 2, 2e8), work(3e9, 1, 5e7)]
    points = [(*item.values(), step_s(item)) for item in done]
    new = work(3e9, 8, 3e8)
    model = fitted_time(points)
    assert model is not None and model.step_time_s(new) == pytest.approx(step_s(new))
    few = fitted_time(points[:2])
    assert few is not None and few.byte_s == 0 < few.flop_s, "two trials tell two terms apart"
    assert fitted_time([]) is None
    lone = fitted_time([(2e9, 1, 1e6, 4.0)] * 3)
    assert lone is not None and lone.step_time_s(work(1e9)) == pytest.approx(2)


def test_a_device_that_is_only_supposed_has_no_speed(tmp_path: Path) -> None:
    here = Machine(cpu="x")
    on_cuda = replace(Config(), trial=TrialConfig(device="cuda"))
    assert device_of(Config(), here) == "cpu x" and device_of(on_cuda, here) is None
    there = replace(here, devices=(Device("0", "A100"),))
    assert device_of(on_cuda, there) == "A100"
    assert device_of(replace(Config(), trial=TrialConfig(device="cpu")), there) == "cpu x"
    answer = MemoryPrediction(1, "backward", work=WORK)
    times = TimeModels(tmp_path)
    times.learn(device_key("cpu x", Config().to_dict()), WORK, 1.0)
    assert trial_time_s(on_cuda, answer, times, here) is None
    assert trial_time_s(Config(), answer, times, here) is not None


WORK = {
    **work(3e9), "forward_flops": 1e9, "padded_tokens": 100.0, "steps": 10.0, "evaluation_tokens": 50.0,
    "general_tokens": 20.0,
}  # fmt: skip


def test_evaluations_take_the_time_of_their_forward_passes(tmp_path: Path) -> None:
    times, here = TimeModels(tmp_path), Machine(cpu="x")
    times.learn(device_key("cpu x", Config().to_dict()), WORK, 3.0)
    answer = MemoryPrediction(1, "backward", work=WORK)
    assert trial_time_s(Config(), answer, times, here) == pytest.approx(10 * 3.0 + 140 * 3.0 / 3 / 100)
    probe = replace(Config(), trial=TrialConfig(probe_steps=5))
    assert evaluated_tokens(probe, WORK) == 0
    every = replace(Config(), evaluate=EvaluateConfig(every_steps=5))
    assert evaluated_tokens(every, WORK) == 4 * 50 + 2 * 20


def test_speeds_are_remembered_per_device(tmp_path: Path) -> None:
    models, key = TimeModels(tmp_path), device_key("cpu x", Config().to_dict())
    models.learn(key, work(1e9), 1.0)
    models.save()
    assert TimeModels(tmp_path).of(key) is not None and TimeModels(tmp_path).of("other") is None


def test_the_margin_protects_what_may_fit() -> None:
    assert not exceeds(105, 100, 0.1) and exceeds(105, 100, 0.01)


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


def test_changes_go_with_what_was_typed_and_with_the_phase_that_sets_the_peak() -> None:
    config = replace(Config(), batch=BatchConfig(4, 16, 4), data=DataConfig(max_length=1))
    found = [change.override for change in changes(config, "evaluation", ["batch.accumulation=4"])]
    assert found[0] == "evaluate.batch=1" and "batch.micro=2 batch.accumulation=8" in found
    assert not any(name.startswith("data.max_length") for name in found), "0 is no length"
    packed = [change.override for change in changes(replace(config, quantization="nf4"))]
    assert "model.dtype=bfloat16" in packed and "quantization=nf4" not in packed


def test_what_is_left_is_combined_at_its_strongest() -> None:
    saving = replace(Config(), quantization="nf4", batch=BatchConfig(4, 16, 4))
    found = combination(saving)
    assert found is not None and "nf4" not in found.override
    assert {"checkpointing=on", "batch.micro=1"} <= set(found.override.split())
    assert found.config.checkpointing and found.config.batch == BatchConfig(1, 16, 16)
    assert combination(found.config) is None


def test_a_bill_says_for_how_many_cells_nothing_is_predicted() -> None:
    bill = Bill((Line("a", Unpredictable("x"), None, False),), (), None, 0.0)
    lines = list(summary(bill))
    assert lines[0] == "1 cell: 1 to run" and lines[1].startswith(
        "No prediction for 1 cell, run all the same"
    )


def test_equal_predictions_are_asked_for_once() -> None:
    plain = memory_identity(Config().to_dict())
    faster = replace(Config(), train=TrainConfig(learning_rate=1.0), lora=LoraSettings(alpha=99))
    assert memory_identity(faster.to_dict()) == plain
    for changed in (
        replace(Config(), trial=TrialConfig(probe_steps=5)),
        replace(Config(), train=TrainConfig(seed=3)),
        replace(Config(), evaluate=EvaluateConfig(general=0)),
    ):
        assert memory_identity(changed.to_dict()) != plain


def test_papers_figures_that_cannot_be_predicted_are_no_traceback(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "predictions", lambda configs, *_: [Unpredictable("why")] * len(configs))
    done = ask("paper")
    assert done.returncode == 1 and "could not be predicted: adamw: why" in done.stderr
