"""What goes into a loss and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Pairs = list[tuple[Tensor, Tensor]]
"""`[(x [n, d_i], W [V, d_i]), ...]` with `logits = sum x @ W.T`: covers plain, tied, frozen and LoRA heads."""

Head = Tensor | Callable[[Tensor], Pairs]
"""A weight `[V, d]`, or a function from hidden rows `[n, d]` to `Pairs`."""


class LossOutput(NamedTuple):
    """Sums over the supervised tokens of one micro-batch, to be divided by the count of the whole step.

    objective: fp32 scalar, sum of weight * published value of the token; differentiable.
               With `per_token_grad=True` and from `from_logits` it is `[n]`, not summed.
    loss:      fp32 scalar, detached, sum of the batch's own weight * nll, whatever the objective and the weight rule.
    nll:       fp32 `[n]`, detached, negative log-likelihood of each supervised token in nats, in the order of `rows`.
    """

    objective: Tensor
    loss: Tensor
    nll: Tensor


class TopK(NamedTuple):
    """A reference's distribution at every target, cut to its k most likely tokens.

    ids:  int64 `[N, k]`, distinct token ids of a row
    logp: fp32 `[N, k]`, their log-probabilities
    tail: fp32 `[N]`, total probability of all other tokens, spread over them in proportion to the student's own
    """

    ids: Tensor
    logp: Tensor
    tail: Tensor


Reference = tuple[Tensor, Head] | TopK
"""`(hidden_ref [N, d_ref], head_ref)` of a frozen model with the student's vocabulary, or its `TopK`."""
