"""What of the machine a trial has for itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeper.contract.config import Config, TrialConfig
from sweeper.machine import Device, Machine
from sweeper.preflight.slots import SETTLE_S, BusyDeviceError, Idle, Slot, await_slot, make_slots

TWO = Machine((Device("0", "GPU", uuid="aa"), Device("1", "GPU", uuid="bb")), cpu="test")


def test_one_slot_is_on_the_gpu_where_nobody_computes() -> None:
    users = {"GPU-aa": [42], "GPU-bb": list[int]()}
    assert make_slots(Config(), TWO, users.__getitem__) == ([Slot(0, "1", "GPU-bb")], None)
    users["GPU-aa"] = []
    assert make_slots(Config(), TWO, users.__getitem__) == ([Slot(0, "0", "GPU-aa")], None)


def test_gpus_that_do_not_start_are_no_slots() -> None:
    broken = replace(TWO, devices=(TWO.devices[0], replace(TWO.devices[1], error="no kernel image")))
    assert len(make_slots(Config(slots="auto"), broken)[0]) == 1
    _, problem = make_slots(Config(slots=2), broken)
    assert problem is not None and problem.remedy == "give slots=1 or less"


def test_a_slice_and_a_shortened_uuid_are_named_as_nvml_knows_them() -> None:
    uuid = "8932f937-d72c-4106-c12f-20bd9faed9f6"
    assert Device("GPU-8932f937", uuid=uuid).nvml_name == f"GPU-{uuid}"
    assert Device("MIG-5f3e", uuid=uuid).nvml_name == "MIG-5f3e"
    assert Device("1").nvml_name == "1"


def test_a_production_run_waits_for_an_idle_gpu() -> None:
    users, said = [[7], [7], [7], list[int]()], list[str]()
    config = Config(trial=TrialConfig(require_idle_device="wait"))
    idle = Idle(said.append, lambda device: users.pop(0), iter([0.0, SETTLE_S, 9.0]).__next__)
    one = replace(TWO, devices=TWO.devices[:1])
    assert await_slot(config, one, said.append, idle).device == "0"
    assert users == [] and said == ["waiting for GPU 0, on which process 7 computes"]


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
