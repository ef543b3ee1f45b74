"""Slow, obvious reference implementations: the fast code is tested against them, and notebooks show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cot_components.losses.loss import Loss


def dense_loss(
    loss: Loss,
    logits: Tensor,
    labels: Tensor,
    *,
    columns: Mapping[str, Tensor] | None = None,
    reference: Tensor | None = None,
) -> Tensor:
    """`imitate * nll + follow * CE(r, p)` of every token, `[n]`, by autograd on whole logits `[n, V]`.

    Its gradient is the loss's; its value differs from the published one by terms that have no gradient. No floors.

    Args:
        loss: from a preset, or built from your own `Target`.
        logits: `[n, V]`; labels: int64 `[n]`, every one a token.
        columns: name to `[n]`; reference: logits `[n, V]`. Each is needed only if the loss reads it.
    """
    logp = logits.log_softmax(-1)
    nll = -logp.gather(1, labels[:, None]).squeeze(1)
    known: dict[str, Any] = {**(columns or {}), "logits": logits.detach(), "reference": reference}
    known |= {"nll": nll.detach(), "p": torch.exp(-nll.detach())}
    imitate, follow, r = (loss.target.apply(rule, known) for rule in ("imitate", "follow", "alternative"))
    return imitate * nll if r is None else imitate * nll - follow * (r * logp).sum(-1)


def induced_target(loss: Callable[..., Any], logits: Tensor, labels: Tensor, **more: Any) -> Tensor:
    """The target `Q = p - dL/dz` that any differentiable token loss pulls toward, `[n, V]`, by autograd.

    Its entries sum to 1 for every loss of softmax outputs, but can leave [0, 1]. For the closed form of a `Target`'s,
    see `losses.target`.

    Args:
        loss: called on one token at a time as `loss(logits [1, V], labels [1], **more)`, whatever its reduction:
            `F.cross_entropy`, one of ours, or its `from_logits` with a reference.
        logits: `[n, V]`; labels: int64 `[n]`.
        more: passed on; tensors, including those in a mapping, have one entry per token and are sliced to that token.
    """
    rows = []
    for token in range(len(labels)):
        z = logits[token : token + 1].detach().clone().requires_grad_()
        out = loss(z, labels[token : token + 1], **{name: _of_token(value, token) for name, value in more.items()})
        value = getattr(out, "objective", out)
        (grad,) = torch.autograd.grad(value.sum(), z)
        rows.append(z.detach().softmax(-1) - grad)
    return torch.cat(rows)


def _of_token(value: Any, token: int) -> Any:
    """An argument sliced to one token; anything but a tensor or a mapping is returned unchanged."""
    if isinstance(value, Tensor):
        return value[token : token + 1]
    if isinstance(value, Mapping):
        return {name: _of_token(column, token) for name, column in value.items()}
    return value
