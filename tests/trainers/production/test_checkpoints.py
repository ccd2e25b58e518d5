"""A production run that is cut off goes on to the same losses, bit by bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.contract.config import Config
from sweeper.contract.folder import ProductionFolder
from sweeper.contract.trial import Outcome, TrialProgress, TrialResult, TrialSpec
from tests.support.samples import QUICK
from trainers.production.checkpoints import Checkpoints
from trainers.production.packing import pack, unpack
from trainers.production.run import ProductionKeeper, open_production

MakeConfig = Callable[..., Config]
Produce = Callable[..., TrialResult]
STEPS = {"production.steps": 9, "production.checkpoint_every_steps": 2, "batch.effective": 8, **QUICK}


@pytest.fixture
def produce(make_config: MakeConfig, cache_dir: Path) -> Produce:
    """Run, or take up, a production run in a folder."""

    def run(folder: ProductionFolder, **overrides: Any) -> TrialResult:
        if not folder.spec.exists():
            config = make_config(**{**STEPS, **overrides}).to_dict()
            folder.write_spec(TrialSpec("test", 0, "key", config, cache_dir=str(cache_dir), production=True))
        return open_production(folder.read_spec(), folder).run()

    return run


def losses(folder: ProductionFolder) -> list[tuple[Any, ...]]:
    lines = [line for line in folder.read_progress() if line.event != "phase"]
    return [(line.event, line.step, line.loss, line.grad_norm, line.learning_rate) for line in lines]


def cut_off(whole: ProductionFolder, step: int, path: Path) -> ProductionFolder:
    """The folder as a kill leaves it: some steps after the checkpoint of `step`, one line half written."""
    cut = ProductionFolder(path)
    cut.path.mkdir()
    shutil.copy(whole.spec, cut.spec)
    for checkpoint in whole.checkpoints.iterdir():
        if int(checkpoint.name.removeprefix("step-")) <= step:
            shutil.copytree(checkpoint, cut.checkpoints / checkpoint.name)
    (cut.checkpoints / ".making-00000006").mkdir()
    lines = whole.progress.read_text().splitlines(keepends=True)
    cut.progress.write_text("".join(lines[:-3]) + lines[-3][:20])
    return cut


@pytest.mark.parametrize(
    "overrides",
    [
        {"lora.dropout": 0.2, "train.lr_scheduler_type": "cosine"},
        {"optim": "adamw_bnb_8bit", "lora.r": 32},
        {"optim": "adafactor", "precision": "bf16_pure"},
        {"optim": "adamw_8bit", "adapter": "full", "batch.micro": 2},
        {"optim": "paged_ademamix_8bit", "lora.r": 32, "quantization": "nf4", "checkpointing": True},
        {"optim": "sgd", "data.packing": True},
    ],
    ids=lambda overrides: " ".join(map(str, overrides.values())),
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    overrides: dict[str, Any], produce: Produce, tmp_path: Path
) -> None:
    whole = ProductionFolder(tmp_path / "whole")
    first = produce(whole, **overrides, **{"production.keep_checkpoints": 9})
    cut = cut_off(whole, 4, tmp_path / "cut")
    second = produce(cut)
    assert losses(cut) == losses(whole) and len(losses(cut)) == 1 + 9 + 5
    assert second.measurements.eval_loss == first.measurements.eval_loss
    assert second.measurements.optimizer_state_bytes == first.measurements.optimizer_state_bytes
    assert second.measurements.steps == 9 and second.active["resumed_at_steps"] == [4]
    assert (second.measurements.train_time_s or 0) > 0


def test_a_run_that_was_cut_off_after_its_last_step_only_concludes(produce: Produce, tmp_path: Path) -> None:
    whole = ProductionFolder(tmp_path / "whole")
    first = produce(whole)
    shutil.rmtree(whole.model)
    again = produce(whole)
    assert again.outcome is Outcome.COMPLETED
    assert again.measurements.eval_loss == first.measurements.eval_loss
    assert (whole.model / "adapter_model.safetensors").exists()


def test_a_checkpoint_that_the_disk_lost_costs_only_the_way_from_the_one_before(
    produce: Produce, tmp_path: Path
) -> None:
    whole = ProductionFolder(tmp_path / "whole")
    produce(whole, **{"production.keep_checkpoints": 9})
    cut = cut_off(whole, 6, tmp_path / "cut")
    (cut.checkpoints / "step-00000006" / "tensors.safetensors").write_bytes(b"\0" * 100)
    result = produce(cut)
    assert result.active["resumed_at_steps"] == [4]
    assert losses(cut) == losses(whole)


def test_peak_memory_is_that_of_a_trial_without_checkpoints(
    produce: Produce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: object) -> None:
        torch.ones(300 * 2**20, dtype=torch.uint8)

    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr(ProductionKeeper, "choose_weights", lambda keeper, model, loss: loss)
    options = {"production.steps": 4, "evaluate.general": 0}
    measured = produce(ProductionFolder(tmp_path / "run"), **options).measurements
    assert measured.peak_memory_bytes is not None and measured.peak_memory_bytes < 200 * 2**20
    assert measured.peak_memory_train_bytes is not None


def test_the_newest_checkpoints_and_the_best_are_kept(produce: Produce, tmp_path: Path) -> None:
    folder = ProductionFolder(tmp_path / "run")
    result = produce(
        folder, **{"train.learning_rate": 0.3, "production.patience": None, "production.steps": 12}
    )
    best = result.active["best_step"]
    evaluations = {
        line.step: line.loss for line in folder.read_progress() if line.event == "eval" and line.step
    }
    assert evaluations[best] == min(loss for loss in evaluations.values() if loss is not None)
    assert {path.name for path in folder.checkpoints.iterdir()} == {
        f"step-{step:08d}" for step in {best, 10, 12}
    }


def test_training_ends_when_it_no_longer_improves_and_stays_ended(produce: Produce, tmp_path: Path) -> None:
    folder = ProductionFolder(tmp_path / "run")
    options = {"train.learning_rate": 3.0, "production.patience": 2, "production.steps": 40}
    result = produce(folder, **options)
    assert result.outcome is Outcome.COMPLETED
    assert result.reason is not None and "production.patience" in result.reason
    last, best = result.measurements.steps, result.active["best_step"]
    assert last is not None and last < 40 and last == best + 4
    assert result.measurements.eval_loss == _evaluation(folder.read_progress(), best)
    again = produce(folder)
    assert again.measurements.steps == last and again.reason == result.reason


def _evaluation(progress: list[TrialProgress], step: int) -> float | None:
    return next(line.loss for line in progress if line.event == "eval" and line.step == step)


def test_values_come_back_from_json_and_tensors_as_they_were() -> None:
    shared = torch.arange(3, dtype=torch.uint8)
    value = {"a": (1, [shared, None]), 3: {"b": shared, "c": torch.tensor(2.5)}, "d": 0.1}
    tensors: dict[str, torch.Tensor] = {}
    back = unpack(pack(value, tensors), tensors)
    assert len(tensors) == 2
    assert back["a"][1][0] is back[3]["b"] and back["a"][1][0].equal(shared)
    assert back["d"] == 0.1 and back["a"][0] == 1 and list(back) == ["a", 3, "d"]
    with pytest.raises(TypeError, match=r"a\.0 is a object"):
        pack({"a": [object()]}, {})
