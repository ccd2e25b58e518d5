"""What of the machine a trial has for itself."""

from __future__ import annotations

import pytest

from sweeper.contract.config import Config
from sweeper.machine import Machine
from sweeper.scheduler.slots import SETTLE_S, BusyDeviceError, Idle, Slot, make_slots, visible_devices

TWO = Machine(("GPU", "GPU"), (9, 0), flash_attn=False, cpu="test")


def test_a_machine_whose_gpus_are_hidden_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    slots, problem = make_slots(Config(slots="auto"), TWO)
    assert len(slots) == 1 and problem is not None and "trial.device=cpu" in problem.remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 0,-1,3")
    assert visible_devices(TWO) == ["1", "0"]


def test_a_gpu_that_another_process_uses_is_waited_for_or_refused() -> None:
    now_s = 0.0
    said: list[str] = []
    users = {"0": [42], "1": []}
    idle = Idle(said.append, lambda device: users[device], lambda: now_s)
    assert idle.is_free(Slot(0, "1"), "refuse") and idle.is_free(Slot(0, "0"), "ignore")
    assert not idle.is_free(Slot(0, "0"), "refuse"), "a process that has just ended may still be listed"
    now_s = SETTLE_S
    assert not idle.is_free(Slot(0, "0"), "wait") and not idle.is_free(Slot(0, "0"), "wait")
    assert said == ["waiting for GPU 0, on which process 42 computes"]
    with pytest.raises(BusyDeviceError, match="process 42"):
        idle.is_free(Slot(0, "0"), "refuse")
    users["0"] = []
    assert idle.is_free(Slot(0, "0"), "refuse")
