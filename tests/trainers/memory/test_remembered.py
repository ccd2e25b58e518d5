"""Fake tensors that remember: a recipe gives what torch's own fake tensors give."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sweeper.config.validate import resolved
from sweeper.contract.config import Config
from trainers.memory import fakes
from trainers.memory.predict import predict
from trainers.memory.remembered import RememberingFakeMode
from trainers.memory.steps import BatchShape

MakeConfig = Callable[..., Config]
LONGEST = BatchShape(48, True, 40, True)


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Recipes outlive a mode: a test begins without those of the tests before."""
    RememberingFakeMode._recipes.clear()


@pytest.mark.parametrize("on_cuda", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"quantization": "nf4", "precision": "bf16", "checkpointing": True, "lora.dropout": 0.1},
        {"quantization": "int8", "trainer": "hf", "attention": "eager"},
        {"adapter": "full", "optim": "adamw_8bit", "precision": "bf16_pure"},
        {"adapter": "full", "optim": "adafactor", "checkpointing": True, "trainer": "hf"},
    ],
)
def test_a_prediction_with_recipes_is_that_of_torchs_own_fake_tensors(
    make_config: MakeConfig, changes: dict[str, object], on_cuda: bool
) -> None:
    config = resolved(make_config(**{"batch.micro": 2, "batch.effective": 4, **changes}))
    with patch.object(fakes, "RememberingFakeMode", lambda: FakeTensorMode(allow_non_fake_inputs=True)):
        expected = predict(config, [LONGEST], on_cuda)
    first, again = predict(config, [LONGEST], on_cuda), predict(config, [LONGEST], on_cuda)

    assert first == expected, "recipes made on the way"
    assert again == expected, "recipes of an earlier prediction"


def asked_of_torch(work: Callable[[], object]) -> int:
    """How often torch's own fake tensors had to find a result."""
    with patch.object(
        FakeTensorMode, "dispatch", autospec=True, side_effect=FakeTensorMode.dispatch
    ) as asked:
        work()
    return asked.call_count


def test_an_operation_is_asked_once_per_kind_of_arguments() -> None:
    with RememberingFakeMode():
        left, right = torch.ones(2, 3), torch.ones(2, 3)
        assert asked_of_torch(lambda: left + right) == 1
        assert asked_of_torch(lambda: right + left) == 0
        assert asked_of_torch(lambda: left.double() + 1) > 0, "another type"
        assert asked_of_torch(lambda: torch.ones(3, 3) + torch.ones(3, 3)) > 0, "another shape"
        assert (left.int() + 1).dtype == torch.int32
        assert (left.int() + 1.0).dtype == torch.float32, "1 and 1.0 are equal, and their sums are not"


def test_a_recipe_keeps_what_shares_a_storage() -> None:
    with RememberingFakeMode():
        for tensor in (torch.ones(2, 3), torch.ones(2, 3)):
            view, parts, copy = tensor.t()[1:], torch.split(tensor, 1), tensor.clone()
            storage = tensor.untyped_storage()._cdata

            assert view.shape == (2, 2) and view.stride() == (1, 3) and view.storage_offset() == 1
            assert {each.untyped_storage()._cdata for each in (view, *parts)} == {storage}
            assert copy.untyped_storage()._cdata != storage and copy.untyped_storage().nbytes() == 24
            assert tensor.add_(1) is tensor


def test_a_recipe_frees_a_storage_with_its_last_tensor() -> None:
    with RememberingFakeMode():
        for _ in range(2):
            tensor = torch.ones(2, 3) * 2
            storage = weakref.ref(tensor.untyped_storage())
            del tensor
            assert storage() is None


def test_an_operation_that_changes_a_shape_in_place_changes_it_each_time() -> None:
    with RememberingFakeMode():
        for tensor in (torch.ones(2, 3), torch.ones(2, 3)):
            tensor.t_()
            tensor.unsqueeze_(0)
            assert tensor.shape == (1, 3, 2)


def test_an_operation_without_a_recipe_is_asked_each_time() -> None:
    with RememberingFakeMode():
        tensor = torch.ones(4)
        for _ in range(2):
            whole = torch.complex(tensor, tensor)
            assert whole.conj().is_conj() and not whole.conj().conj().is_conj()
            assert torch.view_as_real(whole).shape == (4, 2)


def test_a_failing_operation_fails_each_time() -> None:
    with RememberingFakeMode():
        for _ in range(2):
            with pytest.raises(RuntimeError, match="broadcast"):
                torch.ones(2, 3) + torch.ones(2, 4)
