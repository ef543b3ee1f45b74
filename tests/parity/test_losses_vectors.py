"""Hand-checked numbers: V = 4, z = [2, 1, .5, -1], observed token 1; six decimals."""

from __future__ import annotations

import math

import pytest
import torch

from cot_components import losses
from cot_components.losses import GroupSoftmax, Loss, induced_target

Z = torch.tensor([[2.0, 1.0, 0.5, -1.0]], dtype=torch.float64)
Y = torch.tensor([1])
P = Z.softmax(-1)
REFERENCE = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.5, 2.5, 0.0, -0.5]], dtype=torch.float64)

DFT_GRADIENT = [0.136646, -0.173939, 0.030490, 0.006803]

VECTORS: list[tuple[str, Loss, torch.Tensor | None, float, list[float], list[float]]] = [
    ("nll", losses.sft(), None, 1.495182, [0.609460, -0.775792, 0.135989, 0.030343], [0, 1, 0, 0]),
    ("dft", losses.dft(), None, 0.335231, DFT_GRADIENT, [0.472814, 0.398146, 0.105499, 0.023540]),
    ("1 - p", losses.beyond_log(), None, 0.775792, DFT_GRADIENT, [0.472814, 0.398146, 0.105499, 0.023540]),
    (
        "beyond_log .5",
        losses.beyond_log(exponent=0.5),
        None,
        1.052988,
        [0.288583, -0.367342, 0.064392, 0.014368],
        [0.320877, 0.591550, 0.071597, 0.015976],
    ),
    (
        "beyond_log 2",
        losses.beyond_log(exponent=2.0),
        None,
        0.474865,
        [0.030637, -0.038998, 0.006836, 0.001525],
        [0.578823, 0.263206, 0.129153, 0.028818],
    ),
    (
        "profit .1",
        losses.profit(threshold=0.1),
        None,
        1.495182,
        [0.609460, -0.775792, 0.135989, 0.030343],
        [0, 1, 0, 0],
    ),
    ("profit .3", losses.profit(threshold=0.3), None, 0.0, [0, 0, 0, 0], [0.609460, 0.224208, 0.135989, 0.030343]),
    (
        "eaft 4",
        losses.eaft(k=4),
        None,
        1.094080,
        [0.445964, -0.567676, 0.099508, 0.022203],
        [0.163496, 0.791884, 0.036481, 0.008140],
    ),
    (
        "eaft 2",
        losses.eaft(k=2),
        None,
        1.255865,
        [0.511911, -0.651620, 0.114223, 0.025487],
        [0.097549, 0.875828, 0.021766, 0.004857],
    ),
    (
        "label smoothing .1",
        losses.label_smoothing(smoothing=0.1),
        None,
        1.532682,
        [0.584460, -0.700792, 0.110989, 0.005343],
        [0.025, 0.925, 0.025, 0.025],
    ),
    (
        "sft + .5 kl",
        losses.sft_kl(kl_weight=0.5),
        REFERENCE,
        1.590421,
        [0.731425, -0.846453, 0.136748, -0.021721],
        [-0.121965, 1.070661, -0.000759, 0.052064],
    ),
    (
        "asft .5",
        losses.asft(kl_weight=0.5),
        REFERENCE,
        0.430471,
        [0.258611, -0.244599, 0.031249, -0.045261],
        [0.350849, 0.468807, 0.104740, 0.075604],
    ),
    (
        "gem .7",
        losses.gem(beta=0.7),
        None,
        0.666660,
        [0.729536, -0.825166, 0.085589, 0.010041],
        [-0.120076, 1.049374, 0.050400, 0.020302],
    ),
    (
        "distill",
        losses.distill(),
        TEACHER,
        1.499350,
        [0.502662, -0.564929, 0.071213, -0.008946],
        [0.106798, 0.789137, 0.064776, 0.039289],
    ),
    (
        "hybrid .3",
        losses.hybrid_distill(teacher_weight=0.3),
        TEACHER,
        1.277367,
        [0.577421, -0.712533, 0.116556, 0.018557],
        [0.032039, 0.936741, 0.019433, 0.011787],
    ),
    (
        "target_sft 0",
        losses.target_sft(eta=0.0),
        TEACHER,
        1.122197,
        DFT_GRADIENT,
        [0.472814, 0.398146, 0.105499, 0.023540],
    ),
    (
        "target_sft .3",
        losses.target_sft(eta=0.3),
        TEACHER,
        1.269557,
        [0.271682, -0.305634, 0.034252, -0.000299],
        [0.337778, 0.529842, 0.101737, 0.030643],
    ),
    (
        "target_sft .5",
        losses.target_sft(eta=0.5),
        TEACHER,
        1.360944,
        [0.363328, -0.405803, 0.045442, -0.002967],
        [0.246132, 0.630011, 0.090547, 0.033310],
    ),
    (
        "target_sft 1",
        losses.target_sft(eta=1.0),
        TEACHER,
        1.498415,
        [0.526607, -0.612206, 0.085736, -0.000137],
        [0.082853, 0.836414, 0.050253, 0.030480],
    ),
]


@pytest.mark.parametrize(
    ("loss", "other", "value", "grad", "target"), [v[1:] for v in VECTORS], ids=[v[0] for v in VECTORS]
)
def test_value_gradient_and_induced_target(
    loss: Loss, other: torch.Tensor | None, value: float, grad: list[float], target: list[float]
) -> None:
    found = loss.from_logits(Z, Y, reference=other).objective
    assert float(found) == pytest.approx(value, abs=1e-6)
    q = induced_target(loss.from_logits, Z, Y, reference=other)
    torch.testing.assert_close(q, torch.tensor([target], dtype=torch.float64), atol=1.5e-6, rtol=0)
    torch.testing.assert_close(P - q, torch.tensor([grad], dtype=torch.float64), atol=1.5e-6, rtol=0)


@pytest.mark.parametrize(
    ("old", "value", "grad"),
    [(0.30, -0.747359, [0.455486, -0.579796, 0.101633, 0.022677]), (0.15, -1.2, [0.0, 0.0, 0.0, 0.0])],
)
def test_proximal_sft_below_and_above_its_clip(old: float, value: float, grad: list[float]) -> None:
    columns = {"old_logp": torch.tensor([math.log(old)], dtype=torch.float64)}
    found = losses.psft(epsilon=0.2).from_logits(Z, Y, columns=columns).objective
    assert float(found) == pytest.approx(value, abs=1e-6)
    q = induced_target(losses.psft(epsilon=0.2).from_logits, Z, Y, columns=columns)
    torch.testing.assert_close(P - q, torch.tensor([grad], dtype=torch.float64), atol=1.5e-6, rtol=0)


def test_scaled_losses_are_mixtures_after_division_by_their_scale() -> None:
    """Raw Q = p - g leaves the simplex where s is not 1; p - g / s is the mixture of observed token and reference."""
    p_observed = float(P[0, 1])
    cases = [
        (losses.sft_kl(kl_weight=0.5), 1.5, [0.121843, 0.788510, 0.044824, 0.044824]),
        (losses.asft(kl_weight=0.5), p_observed + 0.5, [0.252365, 0.561955, 0.092840, 0.092840]),
    ]
    for loss, scale, mixture in cases:
        raw = induced_target(loss.from_logits, Z, Y, reference=REFERENCE)
        torch.testing.assert_close(
            P - (P - raw) / scale, torch.tensor([mixture], dtype=torch.float64), atol=1.5e-6, rtol=0
        )
    assert len(cases) == 2


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


def test_one_token_rollout_gradient_rows() -> None:
    rows = [(1.0, 0, [-0.226444, 0.123763, 0.027615, 0.075066]), (1.3, 2, [-0.117925, 0.077421, 0.033853, 0.006651])]
    for temperature, row, expected in rows:
        z = THREE.clone().requires_grad_()
        (grad,) = torch.autograd.grad(
            losses.otr(temperature=temperature).from_logits(z, THREE_LABELS).objective.sum(), z
        )
        torch.testing.assert_close(grad[row], torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
    assert len(rows) == 2


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
