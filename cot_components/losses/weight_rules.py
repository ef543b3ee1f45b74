"""Weights computed from the current loss, at every step.

A weight rule is a function `(nll, columns...) -> weights [n]` over the `n` supervised tokens of a micro-batch: `nll` is
fp32 `[n]` in nats, a column has one value per token, `[n]`, and the names of the parameters say which columns it reads.
The loss evaluates it on a forward pass of the head without gradients, so a step costs 8*n*d*V instead of 6*n*d*V, and
detaches its result: if gradients flowed through the weights, tokens of the easier group could be made *less* likely.

A sample's weights sum to its number of supervised tokens, except with `reduce: sum`; either way a step divides by that
number, which is known before its forward pass. For fixed factors per token see `transforms.ByGroup`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cot_components.errors import UserError, require


@dataclass(frozen=True, kw_only=True)
class GroupSoftmax:
    """Reasoning-highlighted fine-tuning, arXiv 2412.14780: within a sample, the group with the larger mean loss gets
    more weight.

    A sample with groups g of n_g tokens and mean loss L_g is trained on `sum_g w_g * L_g`, `w = softmax(L / tau)` over
    the groups it has; that is, each of its n tokens weighs `n * w_g / n_g`. A sample with a single group is trained on
    its plain mean. As tau grows, the groups (not the tokens) approach equal weight.

    Args:
        tau: temperature in nats, above 0; the paper recommends 1 / tau from 0.2 to 0.5 and gives no single value.
        reduce: `mean` is the default because sums over hundreds of tokens saturate the softmax: it would pick one
            group, and no single tau would suit both long and short samples. With `sum`, L_g is a group's total, and
            each of its tokens has weight w_g.
        group_by: `sample` is the default because a row's weights then do not depend on the rows batched with it, so 8
            micro-batches of 1 row equal 1 of 8. `batch` treats all rows of a step as one sample; it is refused if a
            step has several micro-batches or processes, because none of them sees all rows.
        num_groups: the column `groups` holds 0 to num_groups - 1 (0 boilerplate, 1 reasoning).

    Reads the columns `groups` and `sample` (the row of the batch, or any number that tells samples apart).

    Raises:
        UserError: tau not above 0, no group, an unknown option.
    """

    tau: float
    reduce: Literal["mean", "sum"] = "mean"
    group_by: Literal["sample", "batch"] = "sample"
    num_groups: int = 2

    def __post_init__(self) -> None:
        require("tau", self.tau, 0.0, above=True)
        _check_options(self.reduce, self.group_by, self.num_groups)

    @property
    def whole_step(self) -> bool:
        """Whether the rule must see all tokens of a step at once."""
        return self.group_by == "batch"

    def __call__(self, nll: Tensor, groups: Tensor, sample: Tensor) -> Tensor:
        """Weights `[n]` from nll in nats, groups and samples (integers), each `[n]`."""
        cell, count, total = _by_group(nll, groups, sample, self.num_groups, self.group_by)
        size = total / count if self.reduce == "mean" else total.masked_fill(count == 0, torch.nan)
        share = torch.softmax((size / self.tau).masked_fill(count == 0, -torch.inf), -1)
        return _per_token(share, cell, count, self.reduce)


@dataclass(frozen=True, kw_only=True)
class GroupShares:
    """The fixed-weight variant: `sum_g w_g * L_g` per sample with the same `w` at every step.

    In the paper's ablation a fixed weight on reasoning keeps most of the gain. If a sample lacks a group, the weights
    of the others are scaled to sum to 1.

    Args:
        shares: w of each group, boilerplate first; non-negative, scaled to sum to 1.
        reduce, group_by: see `GroupSoftmax`.

    Raises:
        UserError: a share that is negative, all of them 0, an unknown option.
    """

    shares: Sequence[float]
    reduce: Literal["mean", "sum"] = "mean"
    group_by: Literal["sample", "batch"] = "sample"

    def __post_init__(self) -> None:
        if not self.shares:
            raise UserError("shares: name at least one")
        _check_options(self.reduce, self.group_by, len(self.shares))
        for share in self.shares:
            require("a share", share, 0.0)
        require("the sum of the shares", sum(self.shares), 0.0, above=True)

    @property
    def whole_step(self) -> bool:
        """Whether the rule must see all tokens of a step at once."""
        return self.group_by == "batch"

    def __call__(self, nll: Tensor, groups: Tensor, sample: Tensor) -> Tensor:
        """Weights `[n]` from nll in nats, groups and samples (integers), each `[n]`."""
        cell, count, _ = _by_group(nll, groups, sample, len(self.shares), self.group_by)
        share = nll.new_tensor(list(self.shares)) * (count > 0)
        total = share.sum(-1, keepdim=True)
        share = torch.where(total > 0, share / total, share)
        return _per_token(share, cell, count, self.reduce)


def _check_options(reduce: str, group_by: str, num_groups: int) -> None:
    for name, value, known in (("reduce", reduce, ("mean", "sum")), ("group_by", group_by, ("sample", "batch"))):
        if value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    require("num_groups", num_groups, 1)


def _by_group(
    nll: Tensor, groups: Tensor, sample: Tensor, num_groups: int, group_by: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Cell of each token in a table of samples by groups, int64 `[n]`; tokens and summed loss of each cell."""
    segment = torch.zeros_like(sample) if group_by == "batch" else number_samples(sample)
    cell = segment * num_groups + groups.long()
    cells = (max(len(nll), 1), num_groups)  # at most one sample per token; rows beyond the last sample stay empty
    count = nll.new_zeros(cells).put_(cell, torch.ones_like(nll), accumulate=True)
    return cell, count, nll.new_zeros(cells).put_(cell, nll, accumulate=True)


def _per_token(share: Tensor, cell: Tensor, count: Tensor, reduce: str) -> Tensor:
    """The weight of each token, `[n]`, from the shares of its sample's groups."""
    if reduce == "mean":
        share = share * count.sum(-1, keepdim=True) / count.clamp(min=1)
    return share.flatten().gather(0, cell)


def number_samples(sample: Tensor) -> Tensor:
    """Samples renumbered 0, 1, 2, ... in ascending order, int64 `[n]`, without a host sync."""
    ordered, order = sample.sort(stable=True)
    first = torch.zeros_like(order)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(order).scatter_(0, order, first.cumsum(0))
