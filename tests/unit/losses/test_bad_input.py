"""What a loss counts, what it ignores and what it notices; `test_messages.py` has what it refuses."""

import pytest
import torch

from cot_components import losses
from cot_components.errors import UserError
from cot_components.losses import supervised_rows

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
