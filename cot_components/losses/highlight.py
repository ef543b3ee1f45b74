"""Weights that follow the current loss: which tokens count is decided anew at every step.

A weight rule is a function `(nll, columns...) -> weights [n]` over the supervised tokens of a micro-batch; the names of
its parameters say which columns it reads. The loss evaluates it on a forward pass of the head without gradients, so a
step costs 8*n*d*V instead of 6*n*d*V, and detaches its result: with gradient through the weights, the tokens of the
easier group can be pushed to be *less* likely.

The weights of a sample sum to its number of supervised tokens, so that a step's count is known before its forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cot_components.losses.checks import require


@dataclass(frozen=True, kw_only=True)
class GroupSoftmax:
    """Reasoning-highlighted fine-tuning, arXiv 2412.14780: the group of a sample with the larger mean loss counts more.

    A sample with groups g of n_g tokens and mean loss L_g is trained on `sum_g w_g * L_g`, `w = softmax(L / tau)` over
    the groups it has; that is, each of its n tokens weighs `n * w_g / n_g`. A sample of one group is trained on its
    plain mean. As tau grows, groups (not tokens) come to count alike.

    Args:
        tau: temperature in nats, above 0; the paper finds 1 / tau from 0.2 to 0.5 good and prints no single value.
        num_groups: values of the column `groups` are 0 to num_groups - 1 (0 boilerplate, 1 reasoning).

    Reads the columns `groups` and `sample` (the row of the batch, or any number that tells samples apart).

    Raises:
        UserError: tau not above 0, no group.
    """

    tau: float
    num_groups: int = 2

    def __post_init__(self) -> None:
        require("tau", self.tau, 0.0, above=True)
        require("num_groups", self.num_groups, 1)

    def __call__(self, nll: Tensor, groups: Tensor, sample: Tensor) -> Tensor:
        segment = number_samples(sample)
        cell = segment * self.num_groups + groups.long()
        cells = (len(nll), self.num_groups)  # at most one sample per token; rows beyond the last sample stay empty
        count = nll.new_zeros(cells).put_(cell, torch.ones_like(nll), accumulate=True)
        total = nll.new_zeros(cells).put_(cell, nll, accumulate=True)
        mean = (total / count).masked_fill(count == 0, -torch.inf)
        share = torch.softmax(mean / self.tau, -1)
        per_token = share * count.sum(-1, keepdim=True) / count.clamp(min=1)
        return per_token.flatten().gather(0, cell)


def number_samples(sample: Tensor) -> Tensor:
    """Samples as 0, 1, 2, ... in the order of their numbers, int64 `[n]`; the host need not know how many there are."""
    ordered, order = sample.sort(stable=True)
    first = torch.zeros_like(order)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(order).scatter_(0, order, first.cumsum(0))
