"""Bad input to a loss, refused in one sentence.

Shapes are checked on every call, which costs nothing. Values (labels, weights) are checked once, by `supervised_rows`,
while they are still on the host: reading them inside the loss would make the host wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from cot_components.errors import UserError
from cot_components.losses.types import Pairs, TopK

MAX_WEIGHT = 1e4
"""A token that counts for more than ten thousand others is a mistake in the data, not a weighting."""


def supervised_rows(
    labels: Tensor, weights: Tensor | None = None, *, ignore_index: int = -100, vocab_size: int | None = None
) -> Tensor:
    """Indices of the supervised targets, int64 `[n]`: label not ignored and weight not 0.

    Meant for the loader, on host tensors: this is where the values of labels and weights are checked.

    Args:
        labels: int64 `[N]`, shifted; weights: float `[N]`, None is ones.
        vocab_size: if given, every label must be below it.

    Raises:
        UserError: a label that is neither `ignore_index` nor a token; a weight that is negative, NaN or above
            `MAX_WEIGHT`.
    """
    supervised = labels != ignore_index
    wrong = supervised & (labels < 0)
    if vocab_size is not None:
        wrong |= supervised & (labels >= vocab_size)
    if wrong.any():
        at = int(wrong.nonzero()[0])
        vocabulary = "vocabulary" if vocab_size is None else f"vocabulary of {vocab_size}"
        raise UserError(
            f"label {int(labels[at])} of target {at} is neither ignored ({ignore_index}) nor in the {vocabulary}"
        )
    if weights is not None:
        wrong = ~((weights >= 0) & (weights <= MAX_WEIGHT))
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise UserError(f"weight {float(weights[at]):g} of target {at} is not a number from 0 to {MAX_WEIGHT:g}")
        supervised = supervised & (weights != 0)
    return supervised.nonzero().squeeze(1)


def check_tokens(name: str, rows: Tensor, num_tokens: int) -> None:
    """Check that `rows` is `[num_tokens, width]`, of any width.

    Raises:
        UserError: another shape; the message calls the tensor `name`.
    """
    if rows.dim() != 2 or len(rows) != num_tokens:
        raise UserError(f"{name} must be [{num_tokens} tokens, width], got the shape {list(rows.shape)}")


def check_batch(hidden: Tensor, labels: Tensor, weights: Tensor | None, columns: Mapping[str, Tensor] | None) -> None:
    """Check that every per-token input is `[N]`, one entry per row of `hidden` `[N, d]` (or logits `[N, V]`).

    Raises:
        UserError: `hidden` is not two-dimensional, or labels, weights or a column are not of shape `[N]`.
    """
    if hidden.dim() != 2:
        raise UserError(f"hidden states or logits must be [tokens, width], got the shape {list(hidden.shape)}")
    for name, column in {"labels": labels, "weights": weights, **(columns or {})}.items():
        if column is not None and column.shape != hidden.shape[:1]:
            raise UserError(f"{name} has the shape {list(column.shape)}, but there are {hidden.shape[0]} tokens")


def check_pairs(pairs: Pairs) -> None:
    """Check head pairs `[(x [n, d_i], W [V, d_i]), ...]`: the same `V` in all, one dtype per pair, no sharded weight.

    Raises:
        UserError: a sharded weight, shapes that do not fit, parts with different vocabularies, an `x` whose dtype is
            not its weight's.
    """
    vocab_size = pairs[0][1].shape[0]
    for x, weight in pairs:
        if hasattr(weight, "full_tensor"):
            raise UserError("the head's weight is sharded; call the loss inside the forward of the FSDP root")
        if weight.dim() != 2 or x.dim() != 2 or weight.shape[1] != x.shape[1]:
            raise UserError(f"hidden states {list(x.shape)} do not fit a head of shape {list(weight.shape)}")
        if weight.shape[0] != vocab_size:
            raise UserError(f"the parts of the head have vocabularies of {vocab_size} and {weight.shape[0]}")
        if weight.dtype != x.dtype:
            raise UserError(f"hidden states are {x.dtype}, but the head's weight is {weight.dtype}")


def check_vocabulary(student: int, reference: int) -> None:
    """Check that student and reference have vocabularies of the same size, given in tokens.

    Raises:
        UserError: the sizes differ.
    """
    if student != reference:
        raise UserError(
            f"the reference has a vocabulary of {reference} and the student one of {student}; they must share it"
        )


def check_needs(
    name: str, needs: Iterable[str], columns: Mapping[str, Tensor] | None, reference: object, hint: str = ""
) -> None:
    """Check that everything a loss reads was passed to it.

    Args:
        name: the loss's name in the error.
        needs: `reference`, and names of columns.
        columns, reference: what the loss was called with.
        hint: appended to the error: what to do instead.

    Raises:
        UserError: the reference or a column is missing.
    """
    given = columns or {}
    for need in needs:
        if need == "reference":
            if reference is None:
                raise UserError(f"{name} needs a reference model, as (hidden, head) or TopK{hint}")
        elif need not in given:
            listed = ", ".join(given) or "none"
            raise UserError(
                f"{name} needs the column '{need}', one value per target token; columns given: {listed}{hint}"
            )


def check_topk(top: TopK, num_tokens: int) -> None:
    """Check that a `TopK` covers `N = num_tokens` tokens: ids `[N, k]`, logp `[N, k]`, tail `[N]`.

    Raises:
        UserError: one of them has another shape.
    """
    fits = top.ids.shape == top.logp.shape and top.ids.dim() == 2 and top.tail.dim() == 1
    if not fits or len(top.ids) != num_tokens or len(top.tail) != num_tokens:
        shapes = f"ids {list(top.ids.shape)}, logp {list(top.logp.shape)}, tail {list(top.tail.shape)}"
        raise UserError(f"a TopK of {num_tokens} tokens needs ids [N, k], logp [N, k], tail [N]; got {shapes}")
