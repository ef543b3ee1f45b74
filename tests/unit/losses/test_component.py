"""A loss as a component: its signature is its schema, it is frozen and picklable; what it counts and notices."""

import copy
import inspect
import pickle
import typing
from dataclasses import FrozenInstanceError

import pytest
import torch
import torch.nn.functional as F
from loss_formulas import CASES, Case

from cot_components import losses
from cot_components.errors import UserError
from cot_components.losses import Loss, Target, induced_target, preset, supervised_rows

SETTINGS = {"ignore_index", "floor", "weight_rule", "chunk_rows", "per_token_grad", "compile_rows"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_signature_lists_own_and_common_settings_with_their_types(case: Case) -> None:
    parameters = inspect.signature(case.make).parameters
    assert set(case.settings) | SETTINGS <= set(parameters)
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())
    hints = typing.get_type_hints(case.make)
    assert hints["return"] is Loss and hints["chunk_rows"] == int | None
    assert set(parameters) <= set(hints)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_frozen_picklable_and_copyable_even_after_use(case: Case) -> None:
    loss = case.loss(floor={"answer": 0.5})
    z, labels = torch.randn(3, 5), torch.tensor([0, 1, 2])
    more = {
        "columns": {"roles": torch.tensor([2, 4, 4]), "old_logp": torch.full((3,), -2.0)},
        "reference": torch.randn(3, 5) if loss.needs_reference else None,
    }
    value = loss.from_logits(z, labels, **more).objective
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert torch.equal(twin.from_logits(z, labels, **more).objective, value)
    with pytest.raises(FrozenInstanceError):
        loss.ignore_index = 0  # type: ignore[misc]


def test_the_stock_way_in_is_the_mean_over_supervised_tokens() -> None:
    logits, labels = torch.randn(2, 6, 11).requires_grad_(), torch.randint(0, 11, (2, 6))
    labels[0, :4] = -100
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    for z, y in [(logits, labels), (logits.flatten(0, 1), labels.flatten())]:
        found = losses.sft()(z, y)
        torch.testing.assert_close(found, expected)
        grads = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (found, expected)]
        torch.testing.assert_close(*grads)
    assert losses.sft().ignore_index == -100


def test_the_stock_way_in_without_a_supervised_token_is_zero_with_a_zero_gradient() -> None:
    logits = torch.randn(4, 5).requires_grad_()
    found = losses.dft()(logits, torch.full((4,), -100))
    found.backward()
    assert found.item() == 0.0 and torch.equal(logits.grad, torch.zeros(4, 5))


def test_the_stock_way_in_leaves_the_logits_alone_and_goes_backward_twice() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.randn(4, 5, dtype=dtype).requires_grad_()
        before = logits.detach().clone()
        found = losses.otr()(logits, torch.tensor([0, 1, 2, 3]))
        assert found.dtype == torch.float32
        first, second = (torch.autograd.grad(found, logits, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second) and first.dtype == dtype and torch.equal(logits, before)


def test_a_loss_of_ones_own_is_two_pulls() -> None:
    @preset
    def halfway(*, trust: float = 0.5) -> Target:
        return Target(imitate=trust)

    assert str(inspect.signature(halfway)).startswith("(*, trust: float = 0.5, ignore_index: int = -100")
    z, labels = torch.randn(3, 5, dtype=torch.float64), torch.tensor([0, 1, 2])
    q = induced_target(halfway(), z, labels)
    torch.testing.assert_close(q, 0.5 * F.one_hot(labels, 5) + 0.5 * z.softmax(-1))
    torch.testing.assert_close(induced_target(F.cross_entropy, z, labels), F.one_hot(labels, 5).double())
    with pytest.raises(TypeError, match="nonsense"):
        halfway(nonsense=1)


N, D, V = 5, 4, 7


def given(**changed):
    return {"hidden": torch.randn(N, D), "head": torch.randn(V, D), "labels": torch.randint(0, V, (N,))} | changed


def test_another_ignore_index():
    out = losses.sft(ignore_index=-1).fused(**given(labels=torch.tensor([0, -1, 6, 2, 3])))
    assert out.nll.shape == (4,)


def test_supervised_rows():
    labels = torch.tensor([-100, 3, 4, -100, 0])
    assert supervised_rows(labels).tolist() == [1, 2, 4]
    assert supervised_rows(labels, torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])).tolist() == [2, 4]
    assert supervised_rows(torch.full((3,), -100)).shape == (0,)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_show_in_objective_and_in_their_own_nll(poison):
    hidden = torch.randn(N, D)
    hidden[3] = poison
    out = losses.dft().fused(**given(hidden=hidden, rows=torch.tensor([0, 2, 3, 4])))
    assert not bool(torch.isfinite(out.objective))
    assert torch.isfinite(out.nll).tolist() == [True, True, False, True]  # the loop names the rows from these


def test_a_sharded_head_is_told_where_the_loss_belongs():
    class Sharded(torch.Tensor):
        def full_tensor(self): ...

    with pytest.raises(UserError, match="FSDP root"):
        losses.sft().fused(**given(head=torch.randn(V, D).as_subclass(Sharded)))
