"""The fused loss: supervised rows go through head and loss in chunks, so a batch's logits never exist at once.

`fused` computes gradients in the forward, 6*n*d*V FLOPs for `n` supervised rows; the backward only multiplies them by
the upstream scalar, on the device. With `per_token` it saves its inputs and computes the logits again in the backward,
8*n*d*V, for a caller whose upstream gradient differs from token to token. `token_nll` is the forward alone, 2*n*d*V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cot_components.losses.types import Pairs, TopK

RowLosses = Callable[..., tuple[Tensor, Tensor, Tensor | None]]
"""`losses.target.row_losses` with its target and floors bound."""

VOCAB_BLOCK = 4096
"""Vocabulary entries per block when a gradient product is computed in higher precision than its factors; small, because
each block allocates memory."""


@dataclass(frozen=True)
class Job:
    """What a chunked pass needs besides the logits; everything is detached and covers the `n` supervised rows only.

    row_losses: `(logits [m, V], labels [m], weights [m], columns, reference, want_grad=)` of one chunk of m rows to
                `(weighted values [m], nll [m], gradient of the logits [m, V] or None)`
    labels:     int64 `[n]`, token ids
    weights:    float `[n]`, what each token's value and gradient are multiplied by
    columns:    name to `[n]`
    reference:  head pairs of another model, its logits `[n, V]`, its `TopK`, or None
    chunk_rows: rows whose logits exist at once
    """

    row_losses: RowLosses
    labels: Tensor
    weights: Tensor
    columns: Mapping[str, Tensor]
    reference: Pairs | Tensor | TopK | None
    chunk_rows: int

    def chunks(self) -> list[slice]:
        """The `n` rows as slices of `chunk_rows`, the last one shorter; none for no rows."""
        num_rows = len(self.labels)
        return [slice(at, min(at + self.chunk_rows, num_rows)) for at in range(0, num_rows, self.chunk_rows)]


class HeadGrads:
    """Gradients of the head's inputs and weights, filled chunk by chunk; None where none is wanted.

    Args:
        xs: hidden rows `[n, d_i]` of each pair of the head.
        weights: `[V, d_i]` of each pair.
        wanted: whether a gradient is wanted, first of each x, then of each weight.

    For half-precision tensors, products and sums are fp32 and rounded once, after the upstream scalar: every further
    rounding would add as much error as a bf16 gradient already has. The sums start at zero rather than None: with no
    chunks at all they are still returned, because a missing gradient on one rank breaks FSDP's reduction on all of
    them.
    """

    def __init__(self, xs: list[Tensor], weights: list[Tensor], wanted: list[bool]) -> None:
        self.dtypes = [tensor.dtype for tensor in (*xs, *weights)]
        self.sums = [
            torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)) if want else None
            for tensor, want in zip([*xs, *weights], wanted, strict=True)
        ]

    def add(self, xs: list[Tensor], weights: list[Tensor], chunk: slice, dlogits: Tensor) -> None:
        """Add what one chunk of m rows contributes: `dlogits @ W` to its rows of `x`, `dlogits.T @ x[chunk]` to `W`.

        Args:
            xs, weights: the tensors of the constructor.
            chunk: rows of `xs`.
            dlogits: gradient of the chunk's logits, `[m, V]`.
        """
        vocab_size = dlogits.shape[1]
        step = VOCAB_BLOCK if dlogits.dtype in (torch.bfloat16, torch.float16) else vocab_size
        for x, weight, of_x, of_w in zip(xs, weights, self.sums[: len(xs)], self.sums[len(xs) :], strict=True):
            for at in range(0, vocab_size, step):
                block = slice(at, at + step)
                if of_x is not None:
                    _add_product(of_x[chunk], dlogits[:, block], weight[block])
                if of_w is not None:
                    _add_product(of_w[block], dlogits[:, block].t(), x[chunk])

    def rounded(self, upstream: Tensor | None = None) -> list[Tensor | None]:
        """The sums times the scalar `upstream`, in the shapes and dtypes of their tensors; x first, then W.

        Call it once: it overwrites the sums.
        """
        scaled = [total if total is None or upstream is None else total.mul_(upstream) for total in self.sums]
        self.sums = []
        return [None if total is None else total.to(dtype) for total, dtype in zip(scaled, self.dtypes, strict=True)]


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a @ b`, unrounded before the sum when `a` and `b` are of half precision and `total` is fp32."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif a.is_cuda:
        total += torch.mm(a, b, out_dtype=total.dtype)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


def _each_chunk(
    job: Job, read: Callable[[slice], Tensor], write: Callable[[slice, Tensor], None] | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Get logits from `read`, hand their gradients to `write`; return weighted values and nll of all rows, both
    `[n]`."""
    exact = torch.promote_types(like.dtype, torch.float32)
    values, nll = (torch.zeros(len(job.labels), dtype=exact, device=like.device) for _ in range(2))
    for chunk in job.chunks():
        columns = {name: column[chunk] for name, column in job.columns.items()}
        reference = _reference_rows(job.reference, chunk)
        values[chunk], nll[chunk], dlogits = job.row_losses(
            read(chunk), job.labels[chunk], job.weights[chunk], columns, reference, want_grad=write is not None
        )
        if write is not None:
            assert dlogits is not None
            write(chunk, dlogits)
    return values, nll


def _reference_rows(reference: Pairs | Tensor | TopK | None, chunk: slice) -> Tensor | TopK | None:
    if isinstance(reference, TopK):
        return TopK(*(column[chunk] for column in reference))
    if isinstance(reference, list):
        xs, weights = zip(*reference, strict=True)
        return logits_of(xs, weights, chunk)
    return None if reference is None else reference[chunk]


def logits_of(xs: Sequence[Tensor], weights: Sequence[Tensor], chunk: slice, buffer: Tensor | None = None) -> Tensor:
    """Logits `[m, V]` of one chunk of m rows: the sum of `x W^T` over the pairs.

    Args:
        xs: `[n, d_i]` of each pair; weights: `[V, d_i]` of each pair, of the same dtype.
        chunk: rows of `xs`.
        buffer: `[m or more, V]`, overwritten; the logits are a view of it. None allocates.
    """
    out = None if buffer is None else buffer[: chunk.stop - chunk.start]
    logits = torch.mm(xs[0][chunk], weights[0].t(), out=out)
    for x, weight in zip(xs[1:], weights[1:], strict=True):
        logits.addmm_(x[chunk], weight.t())
    return logits


def _run(job: Job, xs: list[Tensor], weights: list[Tensor], grads: HeadGrads | None) -> tuple[Tensor, Tensor]:
    """Weighted values and nll of all rows, both `[n]`; adds to `grads`."""
    buffer = xs[0].new_empty(min(job.chunk_rows, len(xs[0])), weights[0].shape[0])

    def read(chunk: slice) -> Tensor:
        return logits_of(xs, weights, chunk, buffer)

    def write(chunk: slice, dlogits: Tensor) -> None:
        assert grads is not None
        grads.add(xs, weights, chunk, dlogits)

    return _each_chunk(job, read, None if grads is None else write, xs[0])


def _halves(tensors: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    half = len(tensors) // 2
    return list(tensors[:half]), list(tensors[half:])


class _SumWithGradInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: Job, grad_enabled: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        wanted = list(ctx.needs_input_grad[2:])  # True even under no_grad, hence `grad_enabled`
        xs, weights = _halves(tensors)
        grads = HeadGrads(xs, weights, wanted) if grad_enabled and any(wanted) else None
        values, nll = _run(job, xs, weights, grads)
        # On ctx, not in save_for_backward: hooks that offload saved activations would move V * d numbers to the host.
        ctx.grads = grads
        ctx.mark_non_differentiable(nll)
        return values.sum(), nll

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> Any:
        if ctx.grads is None:
            raise RuntimeError("a fused loss allows one backward pass; build it with per_token_grad=True for more")
        grads, ctx.grads = ctx.grads, None
        return None, None, *grads.rounded(upstream)


class _PerTokenWithRecompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: Job, grad_enabled: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        values, nll = _run(job, *_halves(tensors), None)
        ctx.job = job
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(nll)
        return values, nll

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> Any:
        xs, weights = _halves(ctx.saved_tensors)
        grads = HeadGrads(xs, weights, list(ctx.needs_input_grad[2:]))
        _run(replace(ctx.job, weights=ctx.job.weights * upstream), xs, weights, grads)
        return None, None, *grads.rounded()


def fused(job: Job, pairs: Pairs, *, per_token: bool = False) -> tuple[Tensor, Tensor]:
    """Sum of the weighted values, and nll, of the `n` rows in `pairs`: the fused loss.

    Args:
        job: labels, weights and the row function.
        pairs: `[(x [n, d_i], W [V, d_i]), ...]`; gradients go to those that require one.
        per_token: return one weighted value per token, for an upstream gradient that differs from token to token.

    Returns:
        the sum, a scalar (`[n]` with `per_token`), differentiable; nll in nats, `[n]`, detached. fp32, or float64 if
        the pairs are.

    Raises:
        RuntimeError: on a second backward, unless `per_token`.
    """
    xs, weights = zip(*pairs, strict=True)
    function = _PerTokenWithRecompute if per_token else _SumWithGradInForward
    with torch.autocast(xs[0].device.type, enabled=False):
        return function.apply(job, torch.is_grad_enabled(), *xs, *weights)  # type: ignore[no-any-return]


@torch.no_grad()
def token_nll(job: Job, pairs: Pairs) -> Tensor:
    """nll `[n]` alone, in nats, for weights that depend on it; job and pairs as in `fused`."""
    xs, weights = zip(*pairs, strict=True)
    with torch.autocast(xs[0].device.type, enabled=False):
        return _run(job, list(xs), list(weights), None)[1]


class _RowsOfLogits(torch.autograd.Function):
    """The row function on existing logits: only the logits are saved, and one gradient `[N, V]` is allocated."""

    @staticmethod
    def forward(ctx: Any, job: Job, rows: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        ctx.job = job
        ctx.save_for_backward(logits, rows)
        values, nll = _each_chunk(job, lambda chunk: logits.index_select(0, rows[chunk]), None, logits)
        ctx.mark_non_differentiable(nll)
        return values, nll

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> Any:
        logits, rows = ctx.saved_tensors
        grad = torch.zeros_like(logits)

        def write(chunk: slice, dlogits: Tensor) -> None:
            grad.index_copy_(0, rows[chunk], dlogits)

        job = replace(ctx.job, weights=ctx.job.weights * upstream)
        _each_chunk(job, lambda chunk: logits.index_select(0, rows[chunk]), write, logits)
        return None, None, grad


def rows_of_logits(job: Job, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted values, differentiable token by token and more than once, and nll of some rows of logits.

    Args:
        job: for the `n` supervised rows.
        logits: `[N, V]` of all rows; their gradient is also `[N, V]`, 0 outside `rows`.
        rows: int64 `[n]`, the supervised ones.

    Returns:
        weighted values `[n]`; nll in nats `[n]`, detached.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _RowsOfLogits.apply(job, rows, logits)  # type: ignore[no-any-return]
