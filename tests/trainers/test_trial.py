"""A trial as a whole: its outcomes, its files, its progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.trial import Outcome, TrialResult, TrialSpec
from trainers import trial
from trainers.loops import LOOPS

RunTrial = Callable[..., tuple[TrialResult, TrialFolder]]
DIVERGING = {"adapter": "full", "train.learning_rate": 1e30, "train.max_grad_norm": 0.0}


def test_trial_writes_only_its_adapter_and_progress(run_trial: RunTrial) -> None:
    result, folder = run_trial()
    assert {path.name for path in folder.path.iterdir()} == {"spec.json", "progress.jsonl", "adapter"}
    weights = folder.adapter / "adapter_model.safetensors"
    assert result.measurements.adapter_bytes == weights.stat().st_size


@pytest.mark.parametrize("trainer", ["accelerate", "hf"])
def test_full_fine_tune_leaves_no_files(trainer: str, run_trial: RunTrial) -> None:
    result, folder = run_trial(adapter="full", trainer=trainer)
    assert {path.name for path in folder.path.iterdir()} == {"spec.json", "progress.jsonl"}
    assert result.measurements.adapter_bytes is None


def test_adapter_is_weighed_though_it_is_not_kept(run_trial: RunTrial) -> None:
    result, folder = run_trial(**{"trial.keep_adapter": False})
    assert not folder.adapter.exists()
    assert result.measurements.adapter_bytes


@pytest.mark.parametrize("trainer", ["accelerate", "hf"])
def test_progress_has_a_line_per_phase_step_and_evaluation(trainer: str, run_trial: RunTrial) -> None:
    result, folder = run_trial(trainer=trainer, **{"evaluate.every_steps": 2})
    lines = folder.read_progress()
    steps = [line for line in lines if line.event == "step"]
    assert [line.step for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(line.grad_norm and line.total_steps == 6 and line.loss for line in steps)
    assert [line.step for line in lines if line.event == "eval"] == [0, 2, 4, 6]
    assert lines[0].phase == "load"
    assert sum(line.tokens or 0 for line in steps) == result.measurements.tokens


@pytest.mark.parametrize("trainer", ["accelerate", "hf"])
def test_divergence_ends_the_trial_with_what_it_measured(trainer: str, run_trial: RunTrial) -> None:
    result, _ = run_trial(trainer=trainer, **DIVERGING)
    assert result.outcome is Outcome.DIVERGED
    assert result.reason is not None and "train.learning_rate" in result.reason
    assert result.measurements.eval_loss is None and result.measurements.eval_loss_before is not None
    assert result.measurements.steps is not None and 0 < result.measurements.steps < 6
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("trainer", ["accelerate", "hf"])
def test_pruned_trial_ends_at_the_next_step_and_is_evaluated(trainer: str, run_trial: RunTrial) -> None:
    result, _ = run_trial(stop={"outcome": "pruned", "reason": "too slow"}, trainer=trainer)
    assert (result.outcome, result.reason) == (Outcome.PRUNED, "too slow")
    assert result.measurements.steps == 1
    assert result.measurements.eval_loss is not None


def test_trial_that_is_asked_to_stop_in_its_last_step_has_completed(run_trial: RunTrial) -> None:
    stop = {"outcome": "pruned", "reason": "too slow"}
    result, folder = run_trial(stop=stop, **{"train.steps": 1, "evaluate.general": 0})
    assert (result.outcome, result.reason) == (Outcome.COMPLETED, None)
    assert result.measurements.eval_loss is not None and folder.adapter.exists()


@pytest.mark.parametrize("outcome", ["timed_out", "cancelled"])
def test_stopped_trial_is_not_evaluated_again(outcome: str, run_trial: RunTrial) -> None:
    result, folder = run_trial(stop={"outcome": outcome, "reason": "time is over"})
    assert result.outcome == outcome
    assert result.measurements.eval_loss is None
    assert not folder.adapter.exists()


def test_speed_is_unknown_when_every_step_is_warm_up(run_trial: RunTrial) -> None:
    result, _ = run_trial(**{"trial.warmup_steps": 6})
    assert result.measurements.measured_steps == 0
    assert result.measurements.tokens_per_s is None and result.measurements.step_time_s is None


def test_token_budget_ends_with_the_step_that_reaches_it(run_trial: RunTrial) -> None:
    result, folder = run_trial(**{"train.steps": None, "train.token_budget": 3000})
    steps = [line for line in folder.read_progress() if line.event == "step"]
    tokens = [line.tokens or 0 for line in steps]
    assert sum(tokens[:-1]) < 3000 <= sum(tokens) == result.measurements.tokens


def test_equal_seeds_give_equal_losses(run_trial: RunTrial) -> None:
    first, _ = run_trial(**{"lora.dropout": 0.1})
    second, _ = run_trial(**{"lora.dropout": 0.1})
    other, _ = run_trial(**{"lora.dropout": 0.1, "train.seed": 1})
    assert first.measurements.eval_loss == second.measurements.eval_loss != other.measurements.eval_loss


def test_result_tells_memory_time_and_environment(run_trial: RunTrial) -> None:
    result, _ = run_trial()
    measured: Any = result.measurements
    phases = ("load", "train", "eval")
    peaks = [getattr(measured, f"peak_memory_{phase}_bytes") for phase in phases]
    assert measured.peak_memory_bytes == max(peaks)
    assert measured.peak_memory_reserved_bytes is None  # CUDA only: unknown, not zero
    assert "VmHWM" in result.definitions["peak_memory_bytes"]
    assert measured.overfit_gap == measured.eval_loss - measured.train_loss
    assert measured.train_time_s < measured.total_time_s
    assert result.environment["libraries"]["torch"]


def test_what_was_measured_survives_an_exception(
    make_config: Callable[..., Config], cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setitem(LOOPS, "accelerate", fails)
    config = make_config().to_dict()
    spec = TrialSpec("test", 0, "key", config, cache_dir=str(cache_dir))
    folder = TrialFolder(tmp_path / "trial")
    folder.write_spec(spec)
    running = trial.Trial(spec, folder)
    with pytest.raises(MemoryError):
        running.run()
    result = running.result(Outcome.OUT_OF_MEMORY, "did not fit")
    assert result.measurements.trainable_parameters and result.measurements.eval_loss_before
    assert result.measurements.steps == 0
    assert result.measurements.peak_memory_bytes is not None, "0 where malloc still had what it took"
