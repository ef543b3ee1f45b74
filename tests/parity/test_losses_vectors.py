"""Hand-checked numbers: V = 4, z = [2, 1, .5, -1], observed token 1; six decimals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cot_components import losses
from cot_components.losses import GroupSoftmax, Loss, induced_target

Z = torch.tensor([[2.0, 1.0, 0.5, -1.0]], dtype=torch.float64)
Y = torch.tensor([1])
P = Z.softmax(-1)
REFERENCE = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.5, 2.5, 0.0, -0.5]], dtype=torch.float64)

VECTORS = """
loss                              other           value   induced target
sft()                             none         1.495182    0.000000  1.000000  0.000000  0.000000
dft()                             none         0.335231    0.472814  0.398146  0.105499  0.023540
beyond_log()                      none         0.775792    0.472814  0.398146  0.105499  0.023540
beyond_log(exponent=0.5)          none         1.052988    0.320877  0.591550  0.071597  0.015976
beyond_log(exponent=2.0)          none         0.474865    0.578823  0.263206  0.129153  0.028818
profit(threshold=0.1)             none         1.495182    0.000000  1.000000  0.000000  0.000000
profit(threshold=0.3)             none         0.000000    0.609460  0.224208  0.135989  0.030343
eaft(k=4)                         none         1.094080    0.163496  0.791884  0.036481  0.008140
eaft(k=2)                         none         1.255865    0.097549  0.875828  0.021766  0.004857
label_smoothing(smoothing=0.1)    none         1.532682    0.025000  0.925000  0.025000  0.025000
sft_kl(kl_weight=0.5)             reference    1.590421   -0.121965  1.070661 -0.000759  0.052064
asft(kl_weight=0.5)               reference    0.430471    0.350849  0.468807  0.104740  0.075604
gem(beta=0.7)                     none         0.666660   -0.120076  1.049374  0.050400  0.020302
distill()                         teacher      1.499350    0.106798  0.789137  0.064776  0.039289
hybrid_distill(teacher_weight=0.3) teacher     1.277367    0.032039  0.936741  0.019433  0.011787
target_sft(eta=0.0)               teacher      1.122197    0.472814  0.398146  0.105499  0.023540
target_sft(eta=0.3)               teacher      1.269557    0.337778  0.529842  0.101737  0.030643
target_sft(eta=0.5)               teacher      1.360944    0.246132  0.630011  0.090547  0.033310
target_sft(eta=1.0)               teacher      1.498415    0.082853  0.836414  0.050253  0.030480
"""
OTHERS = {"none": None, "reference": REFERENCE, "teacher": TEACHER}


@pytest.mark.parametrize("line", VECTORS.strip().splitlines()[1:], ids=lambda line: line.split()[0])
def test_value_gradient_and_induced_target(line: str) -> None:
    """The gradient of a loss is the model's distribution less the target that it pulls toward."""
    call, other, value, *target = line.split()
    name, settings = call.removesuffix(")").split("(")
    options = dict(pair.split("=") for pair in settings.split(",") if pair)
    loss = getattr(losses, name)(**{key: int(n) if n.isdigit() else float(n) for key, n in options.items()})
    check(loss, {"reference": OTHERS[other]}, float(value), [float(q) for q in target])


def check(loss: Loss, more: dict[str, Any], value: float, target: list[float]) -> None:
    z, expected = Z.clone().requires_grad_(), torch.tensor([target], dtype=torch.float64)
    found = loss.from_logits(z, Y, **more).objective
    assert float(found.detach()) == pytest.approx(value, abs=1e-6)
    (grad,) = torch.autograd.grad(found.sum(), z)
    torch.testing.assert_close(grad, P - expected, atol=1.5e-6, rtol=0)
    torch.testing.assert_close(induced_target(loss.from_logits, Z, Y, **more), expected, atol=1.5e-6, rtol=0)


@pytest.mark.parametrize(
    ("old", "value", "target"),
    [(0.30, -0.747359, [0.153974, 0.804004, 0.034356, 0.007666]), (0.15, -1.2, P[0].tolist())],
)
def test_proximal_sft_below_and_above_its_clip(old: float, value: float, target: list[float]) -> None:
    check(losses.psft(epsilon=0.2), {"columns": {"old_logp": torch.tensor([math.log(old)]).double()}}, value, target)


THREE = torch.tensor([[2.0, 0.5, -1.0, 0.0], [0.5, 1.0, 0.0, -0.5], [0.0, 2.0, 1.0, -1.0]], dtype=torch.float64)
THREE_LABELS = torch.tensor([0, 1, 0])
THREE_REFERENCE = torch.tensor(
    [[1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, -0.5], [1.0, 1.0, 0.5, -1.0]], dtype=torch.float64
)


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        (losses.dft(), [0.243102, 0.358282, 0.212649]),
        (losses.chord_phi(), [0.070475, 0.195244, 0.194118]),
        (losses.asft(), [0.257485, 0.361935, 0.228696]),
        (losses.sft_kl(kl_weight=0.05), [0.356732, 0.790991, 2.456237]),
        (losses.otr(temperature=1.0), [0.179585, 0.269605, 0.139160]),
    ],
    ids=lambda x: x.name if isinstance(x, Loss) else "",
)
def test_values_of_three_tokens(loss: Loss, values: list[float]) -> None:
    found = loss.from_logits(THREE, THREE_LABELS, reference=THREE_REFERENCE).objective
    torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64), atol=1e-6, rtol=0)


NLL = torch.tensor([0.30, 0.60, 1.00, 2.20, 0.10, 2.80], dtype=torch.float64)
GROUPS = torch.tensor([0, 0, 1, 1, 0, 1])


@pytest.mark.parametrize(
    ("tau", "value", "reasoning", "boilerplate"),
    [
        (1.0, 1.735218, 0.280377, 0.052956),
        (2.0, 1.495099, 0.232353, 0.100980),
        (5.0, 1.304284, 0.194190, 0.139143),
        (1e9, 1.166667, 0.166667, 0.166667),
    ],
)
def test_reasoning_highlighted_weights(tau: float, value: float, reasoning: float, boilerplate: float) -> None:
    weights = GroupSoftmax(tau=tau)(NLL, GROUPS, torch.zeros(6, dtype=torch.int64))
    assert float((weights * NLL).mean()) == pytest.approx(value, abs=1e-6)
    expected = torch.where(GROUPS == 1, reasoning, boilerplate).double()
    torch.testing.assert_close(weights / 6, expected, atol=1e-6, rtol=0)
