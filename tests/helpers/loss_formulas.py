"""Every preset, and the formula its paper prints written a second time, without any code of the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

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


def profit(z: Tensor, sg: Tensor, y: int, threshold: float) -> Tensor:
    return -(pr(sg)[y] > threshold).double() * lp(z)[y]


def hybrid(z: Tensor, y: int, ref: Tensor, share: float) -> Tensor:
    return -(1 - share) * lp(z)[y] + share * kl(pr(ref), z)


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
    formula: Formula
    settings: dict[str, float] = field(default_factory=dict)

    def loss(self, **more: object) -> Loss:
        return self.make(**self.settings, **more)


CASES = [
    Case("sft", losses.sft, lambda z, s, y, r, o: -lp(z)[y]),
    Case("label_smoothing", losses.label_smoothing, lambda z, s, y, r, o: -0.9 * lp(z)[y] - 0.1 * lp(z).mean()),
    Case("dft", losses.dft, lambda z, s, y, r, o: -pr(s)[y] * lp(z)[y]),
    Case("beyond_log_1", losses.beyond_log, lambda z, s, y, r, o: 1 - pr(z)[y]),
    *(
        Case(f"beyond_log_{n}", losses.beyond_log, lambda z, s, y, r, o, n=n: (1 - pr(z)[y] ** n) / n, {"exponent": n})
        for n in (0.5, 2.0)
    ),
    *(
        Case(f"profit_{n}", losses.profit, lambda z, s, y, r, o, n=n: profit(z, s, y, n), {"threshold": n})
        for n in (0.1, 0.3)
    ),
    Case("eaft_2", losses.eaft, lambda z, s, y, r, o: eaft(z, s, y, 2), {"k": 2}),
    Case("eaft_20", losses.eaft, lambda z, s, y, r, o: eaft(z, s, y, 20)),
    Case("chord_phi", losses.chord_phi, lambda z, s, y, r, o: -pr(s)[y] * (1 - pr(s)[y]) * lp(z)[y]),
    Case("otr", losses.otr, lambda z, s, y, r, o: otr(z, s, y, 1.3, -0.1)),
    Case("otr_1", losses.otr, lambda z, s, y, r, o: otr(z, s, y, 1.0, -0.1), {"temperature": 1.0}),
    Case("sft_kl", losses.sft_kl, lambda z, s, y, r, o: -lp(z)[y] + 0.5 * kl(pr(r), z), {"kl_weight": 0.5}),
    *(
        Case(f"asft_{n}", losses.asft, lambda z, s, y, r, o, n=n: -pr(s)[y] * lp(z)[y] + n * kl(pr(r), z), weight)
        for n, weight in ((0.05, {}), (0.5, {"kl_weight": 0.5}))
    ),
    Case("distill", losses.distill, lambda z, s, y, r, o: -(pr(r) * lp(z)).sum()),
    Case("hybrid_distill", losses.hybrid_distill, lambda z, s, y, r, o: hybrid(z, y, r, 0.3), {"teacher_weight": 0.3}),
    Case("psft", losses.psft, lambda z, s, y, r, o: psft(z, y, o, 0.2)),
    *(
        Case(f"target_sft_{n}", losses.target_sft, lambda z, s, y, r, o, n=n: target_sft(z, s, y, r, n), {"eta": n})
        for n in (0.0, 0.3, 1.0)
    ),
    Case("gem", losses.gem, lambda z, s, y, r, o: -lp(z)[y] + (pr(s / 0.7) * lp(z)).sum()),
]
