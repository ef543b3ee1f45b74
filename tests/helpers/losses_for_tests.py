"""Every preset, and the formula its paper prints written a second time, without any code of the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cot_components import losses
from cot_components.losses import Loss

Formula = Callable[[Tensor, Tensor, int, Tensor, float], Tensor]
"""`(z, sg, y, ref, old_logp) -> value` of one token: logits, the same logits detached (for what a paper stops the
gradient of), observed token, reference logits, log-probability of the observed token under the old policy."""


def lp(z: Tensor) -> Tensor:
    return z.log_softmax(-1)


def pr(z: Tensor) -> Tensor:
    return z.softmax(-1)


def kl(p: Tensor, q_logits: Tensor) -> Tensor:
    return (p * (p.log() - lp(q_logits))).sum()


def eaft(z: Tensor, sg: Tensor, y: int, k: int) -> Tensor:
    top = pr(sg).sort(descending=True).values[:k]
    top = top / top.sum()
    return -(top * top.log()).sum() / math.log(len(top)) * -lp(z)[y]


def otr(z: Tensor, sg: Tensor, y: int, temperature: float, penalty: float) -> Tensor:
    policy = pr(sg / temperature)
    reward = torch.full_like(policy, penalty)
    reward[y] = 1.0
    return -(policy * reward * lp(z)).sum()


def psft(z: Tensor, y: int, old_logp: float, epsilon: float) -> Tensor:
    ratio = pr(z)[y] / math.exp(old_logp)
    return -torch.minimum(ratio, ratio.clamp(1 - epsilon, 1 + epsilon))


def target_sft(z: Tensor, sg: Tensor, y: int, ref: Tensor, eta: float) -> Tensor:
    guided = pr(sg) ** (1 - eta) * pr(ref) ** eta
    q = (1 - pr(sg)[y]) * guided / guided.sum()
    q[y] += pr(sg)[y]
    return -(q * lp(z)).sum()


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[..., Loss]
    settings: dict[str, float]
    formula: Formula

    def loss(self, **more: object) -> Loss:
        return self.make(**self.settings, **more)


CASES = [
    Case("sft", losses.sft, {}, lambda z, sg, y, ref, old: -lp(z)[y]),
    Case(
        "label_smoothing",
        losses.label_smoothing,
        {"smoothing": 0.1},
        lambda z, sg, y, ref, old: -(0.9 * lp(z)[y] + 0.1 * lp(z).mean()),
    ),
    Case("dft", losses.dft, {}, lambda z, sg, y, ref, old: -pr(sg)[y] * lp(z)[y]),
    Case("beyond_log_1", losses.beyond_log, {}, lambda z, sg, y, ref, old: 1 - pr(z)[y]),
    Case("beyond_log_.5", losses.beyond_log, {"exponent": 0.5}, lambda z, sg, y, ref, old: (1 - pr(z)[y] ** 0.5) / 0.5),
    Case("beyond_log_2", losses.beyond_log, {"exponent": 2.0}, lambda z, sg, y, ref, old: (1 - pr(z)[y] ** 2) / 2),
    Case(
        "profit_.1",
        losses.profit,
        {"threshold": 0.1},
        lambda z, sg, y, ref, old: -(pr(sg)[y] > 0.1).double() * lp(z)[y],
    ),
    Case(
        "profit_.3",
        losses.profit,
        {"threshold": 0.3},
        lambda z, sg, y, ref, old: -(pr(sg)[y] > 0.3).double() * lp(z)[y],
    ),
    Case("eaft_2", losses.eaft, {"k": 2}, lambda z, sg, y, ref, old: eaft(z, sg, y, 2)),
    Case("eaft_20", losses.eaft, {}, lambda z, sg, y, ref, old: eaft(z, sg, y, 20)),
    Case("chord_phi", losses.chord_phi, {}, lambda z, sg, y, ref, old: -pr(sg)[y] * (1 - pr(sg)[y]) * lp(z)[y]),
    Case("otr", losses.otr, {}, lambda z, sg, y, ref, old: otr(z, sg, y, 1.3, -0.1)),
    Case("otr_1", losses.otr, {"temperature": 1.0}, lambda z, sg, y, ref, old: otr(z, sg, y, 1.0, -0.1)),
    Case("sft_kl", losses.sft_kl, {"kl_weight": 0.5}, lambda z, sg, y, ref, old: -lp(z)[y] + 0.5 * kl(pr(ref), z)),
    Case("asft", losses.asft, {}, lambda z, sg, y, ref, old: -pr(sg)[y] * lp(z)[y] + 0.05 * kl(pr(ref), z)),
    Case(
        "asft_.5",
        losses.asft,
        {"kl_weight": 0.5},
        lambda z, sg, y, ref, old: -pr(sg)[y] * lp(z)[y] + 0.5 * kl(pr(ref), z),
    ),
    Case("distill", losses.distill, {}, lambda z, sg, y, ref, old: -(pr(ref) * lp(z)).sum()),
    Case(
        "hybrid_distill",
        losses.hybrid_distill,
        {"teacher_weight": 0.3},
        lambda z, sg, y, ref, old: -0.7 * lp(z)[y] + 0.3 * kl(pr(ref), z),
    ),
    Case("psft", losses.psft, {}, lambda z, sg, y, ref, old: psft(z, y, old, 0.2)),
    Case("target_sft_0", losses.target_sft, {"eta": 0.0}, lambda z, sg, y, ref, old: target_sft(z, sg, y, ref, 0.0)),
    Case("target_sft_.3", losses.target_sft, {"eta": 0.3}, lambda z, sg, y, ref, old: target_sft(z, sg, y, ref, 0.3)),
    Case("target_sft_1", losses.target_sft, {"eta": 1.0}, lambda z, sg, y, ref, old: target_sft(z, sg, y, ref, 1.0)),
    Case("gem", losses.gem, {}, lambda z, sg, y, ref, old: -lp(z)[y] + (pr(sg / 0.7) * lp(z)).sum()),
]
