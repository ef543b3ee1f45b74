"""Bad input to a loss, refused in one sentence.

Shapes are checked on every call, because a shape costs nothing to look at. Values (labels, weights) are checked by `supervised_rows`, once,
while they are still on the host: a check of values inside the loss would make the device wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cot_components.errors import UserError
from cot_components.losses.types import Pairs, TopK

MAX_WEIGHT = 1e4
"""A token that counts more than ten thousand others is a mistake in the data, not a weighting."""


def require(name: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """Raise unless `value` is a number in `[low, high]` (`(low, high]` with `open_low`)."""
    if not (low < value if open_low else low <= value) or not value <= high or not math.isfinite(value):
        above = f"above {low:g}" if open_low else f"at least {low:g}"
        span = f"between {low:g} and {high:g}" if math.isfinite(high) and not open_low else above
        raise UserError(f"{name} must be {span}, got {value}")


def supervised_rows(
    labels: Tensor, weights: Tensor | None = None, *, ignore_index: int = -100, vocab_size: int | None = None
) -> Tensor:
    """Indices of the supervised targets, int64 `[n]`: label not ignored and weight not 0.

    Meant for the loader, on host tensors: it is where labels and weights are looked at.

    Args:
        labels: int64 `[N]`, shifted; weights: float `[N]` or None for ones.
        vocab_size: when given, labels must be below it.

    Raises:
        UserError: a label that is neither `ignore_index` nor a token, a weight that is negative, NaN or above `MAX_WEIGHT`.
    """
    supervised = labels != ignore_index
    wrong = supervised & (labels < 0)
    if vocab_size is not None:
        wrong |= supervised & (labels >= vocab_size)
    if wrong.any():
        at = int(wrong.nonzero()[0])
        vocabulary = f" of {vocab_size}" if vocab_size is not None else ""
        raise UserError(f"label {int(labels[at])} of target {at} is neither ignored ({ignore_index}) nor in the vocabulary{vocabulary}")
    if weights is not None:
        wrong = ~((weights >= 0) & (weights <= MAX_WEIGHT))
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise UserError(f"weight {float(weights[at]):g} of target {at} is not a number from 0 to {MAX_WEIGHT:g}")
        supervised = supervised & (weights != 0)
    return supervised.nonzero().squeeze(1)


def check_tokens(name: str, rows: Tensor, num_tokens: int) -> None:
    """`rows` is `[num_tokens, something]`."""
    if rows.dim() != 2 or len(rows) != num_tokens:
        raise UserError(f"{name} must have two dimensions, {num_tokens} tokens first, got the shape {list(rows.shape)}")


def check_batch(hidden: Tensor, labels: Tensor, weights: Tensor | None, columns: Mapping[str, Tensor] | None) -> None:
    """Every per-token input has one entry per row of `hidden [N, d]` (or logits `[N, V]`)."""
    if hidden.dim() != 2:
        raise UserError(f"hidden states and logits must be two-dimensional, tokens first, got the shape {list(hidden.shape)}")
    for name, column in {"labels": labels, "weights": weights, **(columns or {})}.items():
        if column is not None and column.shape != hidden.shape[:1]:
            raise UserError(f"{name} has the shape {list(column.shape)}, but there are {hidden.shape[0]} tokens")


def check_pairs(pairs: Pairs) -> None:
    """`[(x [n, d_i], W [V, d_i]), ...]` of one dtype and one vocabulary, with whole (not sharded) weights."""
    for x, weight in pairs:
        if hasattr(weight, "full_tensor"):
            raise UserError("the head's weight is sharded; call the loss inside the forward of the FSDP root")
        if weight.dim() != 2 or x.dim() != 2 or weight.shape[1] != x.shape[1]:
            raise UserError(f"hidden states {list(x.shape)} do not fit a head of shape {list(weight.shape)}")
        if weight.shape[0] != pairs[0][1].shape[0]:
            raise UserError(f"the parts of the head have vocabularies of {pairs[0][1].shape[0]} and {weight.shape[0]}")
        if weight.dtype != x.dtype:
            raise UserError(f"hidden states are {x.dtype}, the head's weight is {weight.dtype}")


def check_vocabulary(student: int, teacher: int) -> None:
    if student != teacher:
        raise UserError(f"the reference has a vocabulary of {teacher}, the student one of {student}; a target needs the same tokens in both")


def check_needs(name: str, needs: Iterable[str], columns: Mapping[str, Tensor] | None, reference: object, hint: str = "") -> None:
    """Everything a loss's rules read is there."""
    have = columns or {}
    for need in needs:
        if need == "reference" and reference is None:
            raise UserError(f"{name} needs a reference model: reference=(hidden, head) or TopK{hint}")
        if need not in ("p", "nll", "logits", "reference") and need not in have:
            listed = ", ".join(have) or "none"
            raise UserError(f"{name} needs the column '{need}' (one value per target token); given: {listed}{hint}")


def check_topk(top: TopK, num_tokens: int) -> None:
    if top.ids.shape != top.logp.shape or top.ids.shape[:1] != (num_tokens,) or top.tail.shape != (num_tokens,):
        shapes = f"ids {list(top.ids.shape)}, logp {list(top.logp.shape)}, tail {list(top.tail.shape)}"
        raise UserError(f"a TopK reference of {num_tokens} tokens must be ids [N, k], logp [N, k], tail [N]; got {shapes}")


def describe_nonfinite(nll: Tensor, sample: Tensor, ids: Iterable[int] | None = None) -> str | None:
    """The sentence to stop with when a step is not finite, or None if every value is.

    Args:
        nll: `[n]` per supervised token; sample: `[n]` the row of the batch each belongs to; ids: of the batch's rows, in order.
    """
    bad = ~torch.isfinite(nll)
    if not bad.any():
        return None
    rows = sorted(set(sample[bad].tolist()))
    names = list(ids) if ids is not None else None
    listed = ", ".join(str(names[row] if names is not None else row) for row in rows)
    return f"the logits are not finite on {int(bad.sum())} tokens of the samples {listed}; nothing was updated"
