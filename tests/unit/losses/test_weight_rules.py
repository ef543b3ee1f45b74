"""Weights that follow the current loss."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cot_components import losses
from cot_components.losses import GroupShares, GroupSoftmax
from cot_components.losses.weight_rules import number_samples


def slow_weights(nll: list[float], groups: list[int], sample: list[int], tau: float) -> list[float]:
    """One sample after the other, one group after the other."""
    weights = [0.0] * len(nll)
    for name in set(sample):
        members = [i for i, s in enumerate(sample) if s == name]
        of = {group: [nll[i] for i in members if groups[i] == group] for group in {groups[i] for i in members}}
        power = {group: math.exp(sum(losses) / len(losses) / tau) for group, losses in of.items()}
        for i in members:
            weights[i] = len(members) * power[groups[i]] / sum(power.values()) / len(of[groups[i]])
    return weights


SAMPLES = st.integers(0, 4).map(lambda s: s * 1000 - 7)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 2), SAMPLES), min_size=1, max_size=40), st.floats(0.2, 10))
def test_weights_equal_the_slow_ones_and_sum_to_each_samples_count(rows: list, tau: float) -> None:
    nll, groups, sample = (list(column) for column in zip(*rows, strict=True))
    exact = torch.tensor(nll, dtype=torch.float64)
    found = GroupSoftmax(tau=tau, num_groups=3)(exact, torch.tensor(groups, dtype=torch.uint8), torch.tensor(sample))
    torch.testing.assert_close(found, exact.new_tensor(slow_weights(nll, groups, sample, tau)))
    for name in set(sample):
        here = torch.tensor(sample) == name
        assert float(found[here].sum()) == pytest.approx(int(here.sum()))


PUBLISHED = [0.30, 0.60, 1.00, 2.20, 0.10, 2.80], [0, 0, 1, 1, 0, 1]


def test_published_loss_of_group_sums() -> None:
    nll, groups = torch.tensor(PUBLISHED[0], dtype=torch.float64), torch.tensor(PUBLISHED[1])
    weights = GroupSoftmax(tau=2.0, reduce="sum")(nll, groups, torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(weights[2], torch.tensor(0.924142, dtype=torch.float64), atol=1e-6, rtol=0)
    assert float((weights * nll).sum()) == pytest.approx(5.620709, abs=1e-6)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_a_batch_as_one_sample_forgets_the_samples(reduce: str) -> None:
    nll, groups = torch.rand(30), torch.randint(0, 2, (30,))
    for rule in (partial(GroupSoftmax, tau=2.0), partial(GroupShares, shares=[0.3, 0.7])):
        together = rule(reduce=reduce, group_by="batch")
        alone = rule(reduce=reduce)
        torch.testing.assert_close(
            together(nll, groups, torch.arange(30) // 7), alone(nll, groups, torch.zeros(30, dtype=torch.int64))
        )
        assert together.whole_step and not alone.whole_step
        assert losses.sft(weight_rule=together).whole_step and not losses.sft(weight_rule=alone).whole_step


def test_fixed_shares_are_those_of_the_groups_that_are_there() -> None:
    """Sample 0 has both groups (2 and 1 tokens), sample 1 the second alone."""
    groups, sample = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])
    rule = GroupShares(shares=[1.0, 3.0])
    torch.testing.assert_close(rule(torch.rand(4), groups, sample), torch.tensor([0.375, 0.375, 2.25, 1.0]))
    totals = GroupShares(shares=[1.0, 3.0], reduce="sum")(torch.rand(4), groups, sample)
    torch.testing.assert_close(totals, torch.tensor([0.25, 0.25, 0.75, 1.0]))
    no_reasoning = GroupShares(shares=[0.0, 1.0])(torch.rand(2), torch.tensor([0, 0]), torch.tensor([0, 0]))
    assert no_reasoning.tolist() == [0.0, 0.0]
    assert len(rule(torch.rand(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))) == 0


def test_samples_are_numbered_in_any_order() -> None:
    assert number_samples(torch.tensor([7, -2, 7, 900, -2])).tolist() == [1, 0, 1, 2, 0]
    assert number_samples(torch.tensor([], dtype=torch.int64)).tolist() == []


N, D, V = 12, 4, 9


def batch() -> dict[str, torch.Tensor]:
    hidden = torch.randn(N, D).requires_grad_()
    return {"hidden": hidden, "head": torch.randn(V, D), "labels": torch.randint(0, V, (N,))}


def test_the_loss_multiplies_rule_and_batch_weights_and_detaches_the_rule() -> None:
    inputs, weights = batch(), torch.rand(N)
    columns = {"groups": torch.arange(N) % 2, "sample": torch.arange(N) // 4}
    rule = GroupSoftmax(tau=2.0)
    out = losses.dft(weight_rule=rule, chunk_rows=5).fused(**inputs, weights=weights, columns=columns)
    plain = losses.sft().fused(**inputs)
    factor = rule(plain.nll, **columns)
    fixed = losses.dft().fused(**inputs, weights=weights * factor)
    torch.testing.assert_close(out.objective, fixed.objective)
    grads = [torch.autograd.grad(o.objective, inputs["hidden"])[0] for o in (out, fixed)]
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(out.loss, (weights * plain.nll).sum())  # the batch's own: comparable across methods


def test_any_function_is_a_weight_rule_and_whole_logits_agree() -> None:
    inputs = batch()
    loss = losses.sft(weight_rule=lambda nll: (nll > nll.mean()).float())
    out = loss.fused(**inputs)
    logits = inputs["hidden"] @ inputs["head"].t()
    nll = torch.nn.functional.cross_entropy(logits, inputs["labels"], reduction="none")
    torch.testing.assert_close(out.objective, nll[nll > nll.mean()].sum())
    torch.testing.assert_close(loss.from_logits(logits, inputs["labels"]).objective.sum(), out.objective)
