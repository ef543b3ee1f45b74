"""Value and gradient of every preset against its paper's formula, on fresh random inputs, in float64."""

from __future__ import annotations

import pytest
import torch
from loss_formulas import CASES, Case

from cot_components import losses

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
N, V = 7, 11


def random_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    z, ref = (torch.randn(N, V, dtype=torch.float64) * 2 for _ in range(2))
    labels = torch.randint(0, V, (N,))
    labels[0] = z[0].argmax()  # one token the model is sure of
    old_logp = z.log_softmax(-1).gather(1, labels[:, None]).squeeze(1) + 0.4 * torch.randn(N, dtype=torch.float64)
    return z, ref, labels, old_logp


def ours(case: Case, z: torch.Tensor, ref: torch.Tensor, labels: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    loss = case.loss(chunk_rows=3)
    return loss.from_logits(
        z, labels, columns={"old_logp": old}, reference=ref if loss.needs_reference else None
    ).objective


@CASE
def test_gradient_is_that_of_the_formula_by_central_differences(case: Case) -> None:
    z, ref, labels, old = random_batch()
    leaf = z.clone().requires_grad_()
    upstream = torch.rand(N, dtype=torch.float64)
    (grad,) = torch.autograd.grad(ours(case, leaf, ref, labels, old), leaf, upstream)
    step, count = 1e-6, 0
    for t in range(N):
        for v in range(V):
            moved = torch.zeros(V, dtype=torch.float64)
            moved[v] = step
            plus, minus = (
                float(case.formula(z[t] + sign * moved, z[t], int(labels[t]), ref[t], float(old[t])))
                for sign in (1, -1)
            )
            expected = float(upstream[t]) * (plus - minus) / (2 * step)
            assert float(grad[t, v]) == pytest.approx(expected, abs=2e-8, rel=1e-6)
            count += 1
    assert count == N * V


def test_the_gradient_of_dft_without_stopping_it_would_push_the_token_down() -> None:
    """What the detached target guards against: an undetached p * nll flips its sign below p = 1 / e."""
    z = torch.tensor([2.0, 1.0, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    (undetached,) = torch.autograd.grad(-z.softmax(-1)[1] * z.log_softmax(-1)[1], z)
    (detached,) = torch.autograd.grad(losses.dft()(z[None], torch.tensor([1])), z)
    assert undetached[1] > 0 > detached[1]
