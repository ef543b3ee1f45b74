"""Supervised rows through head and loss in chunks: the logits of the whole batch never exist, and no logits are kept for the backward.

`fused_sum` computes gradients in the forward, 6*n*d*V FLOPs for `n` supervised rows; the backward only multiplies them by the upstream
scalar, on the device. `fused_per_token` saves its inputs and computes the logits again in the backward, 8*n*d*V, for a caller whose
upstream gradient differs from token to token. `token_nll` is the forward alone, 2*n*d*V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cot_components.losses.types import Pairs, TopK

RowLosses = Callable[..., tuple[Tensor, Tensor, Tensor | None]]


@dataclass(frozen=True)
class Job:
    """What a chunked pass needs besides the head: everything here is detached, and is of the `n` supervised rows only."""

    row_losses: RowLosses
    labels: Tensor
    weights: Tensor
    columns: Mapping[str, Tensor]
    reference: Pairs | TopK | Tensor | None
    chunk_rows: int

    def chunks(self) -> list[slice]:
        num_rows = len(self.labels)
        return [slice(at, min(at + self.chunk_rows, num_rows)) for at in range(0, num_rows, self.chunk_rows)]


class HeadGrads:
    """Gradients of head inputs and weights, filled chunk by chunk; None where nobody asked for one.

    Present, and zero, even if no chunk follows: a missing gradient on one rank breaks FSDP's reduction on all.
    """

    def __init__(self, xs: list[Tensor], weights: list[Tensor], wanted: list[bool], num_chunks: int) -> None:
        def exact(w: Tensor) -> torch.dtype:  # a sum of many bf16 chunks would lose more than naive's single product
            return w.dtype if num_chunks <= 1 else torch.promote_types(w.dtype, torch.float32)

        self.xs, self.weights = xs, weights
        self.for_x = [torch.zeros_like(x) if want else None for x, want in zip(xs, wanted[: len(xs)], strict=True)]
        self.for_w = [
            torch.zeros_like(w, dtype=exact(w)) if want else None for w, want in zip(weights, wanted[len(xs) :], strict=True)
        ]

    def add(self, chunk: slice, dlogits: Tensor) -> None:
        for x, w, grad_x, grad_w in zip(self.xs, self.weights, self.for_x, self.for_w, strict=True):
            if grad_x is not None:
                torch.mm(dlogits, w, out=grad_x[chunk])
            if grad_w is not None:
                if grad_w.dtype == dlogits.dtype:
                    grad_w.addmm_(dlogits.t(), x[chunk])
                else:
                    grad_w.add_(dlogits.t() @ x[chunk])

    def finished(self) -> list[Tensor | None]:
        return [*self.for_x, *(g if g is None else g.to(w.dtype) for g, w in zip(self.for_w, self.weights, strict=True))]


def _logits(xs: list[Tensor], weights: list[Tensor], chunk: slice, buffer: Tensor | None = None) -> Tensor:
    """Sum of `x W^T` over the pairs for one chunk of rows, in the buffer if there is one."""
    out = None if buffer is None else buffer[: chunk.stop - chunk.start]
    logits = torch.mm(xs[0][chunk], weights[0].t(), out=out)
    for x, w in zip(xs[1:], weights[1:], strict=True):
        logits.addmm_(x[chunk], w.t())
    return logits


def _reference_rows(reference: Pairs | TopK | Tensor | None, chunk: slice) -> Tensor | TopK | None:
    if reference is None:
        return None
    if isinstance(reference, Tensor):
        return reference[chunk]
    if isinstance(reference, TopK):
        return TopK(*(column[chunk] for column in reference))
    xs, weights = zip(*reference, strict=True)
    return _logits(list(xs), list(weights), chunk)


def _run(job: Job, xs: list[Tensor], weights: list[Tensor], grads: HeadGrads | None) -> tuple[Tensor, Tensor]:
    """Weighted values and nll of all rows, both `[n]`, adding to `grads` on the way."""
    buffer = xs[0].new_empty(min(job.chunk_rows, len(xs[0])), weights[0].shape[0])
    return _each_chunk(job, lambda chunk: _logits(xs, weights, chunk, buffer), grads.add if grads is not None else None, xs[0])


def _each_chunk(
    job: Job, read: Callable[[slice], Tensor], write: Callable[[slice, Tensor], None] | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits in by `read`, their gradients out by `write`, values and nll of all rows as the result."""
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


def _split(tensors: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    half = len(tensors) // 2
    return list(tensors[:half]), list(tensors[half:])


class _SumWithGradInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: Job, grad_enabled: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        xs, weights = _split(tensors)
        wanted = list(ctx.needs_input_grad[2:])  # still True under no_grad, hence `grad_enabled`
        grads = HeadGrads(xs, weights, wanted, len(job.chunks())) if grad_enabled and any(wanted) else None
        values, nll = _run(job, xs, weights, grads)
        # Kept on ctx, not through save_for_backward: hooks that offload saved activations would move a gradient of V * d to the host.
        ctx.grads = None if grads is None else grads.finished()
        ctx.mark_non_differentiable(nll)
        return values.sum(), nll

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> Any:
        if ctx.grads is None:
            raise RuntimeError("a fused loss can be differentiated once; build it with per_token_grad=True to go backward again")
        grads, ctx.grads = ctx.grads, None
        return None, None, *(g if g is None else g.mul_(upstream) for g in grads)


class _PerTokenWithRecompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: Job, grad_enabled: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        values, nll = _run(job, *_split(tensors), None)
        ctx.job = job
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(nll)
        return values, nll

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> Any:
        xs, weights = _split(ctx.saved_tensors)
        grads = HeadGrads(xs, weights, list(ctx.needs_input_grad[2:]), len(ctx.job.chunks()))
        _run(replace(ctx.job, weights=ctx.job.weights * upstream), xs, weights, grads)
        return None, None, *grads.finished()


def fused(job: Job, pairs: Pairs, *, per_token: bool = False) -> tuple[Tensor, Tensor]:
    """Sum of the weighted values (`[n]` unsummed with `per_token`) and the nll `[n]` of the rows in `pairs`."""
    xs, weights = zip(*pairs, strict=True)
    function = _PerTokenWithRecompute if per_token else _SumWithGradInForward
    with torch.autocast(xs[0].device.type, enabled=False):
        return function.apply(job, torch.is_grad_enabled(), *xs, *weights)  # type: ignore[no-any-return]


@torch.no_grad()
def token_nll(job: Job, pairs: Pairs) -> Tensor:
    """nll `[n]` alone, for weights that depend on it."""
    xs, weights = zip(*pairs, strict=True)
    with torch.autocast(xs[0].device.type, enabled=False):
        return _run(job, list(xs), list(weights), None)[1]


class _RowsOfLogits(torch.autograd.Function):
    """The row function on logits that exist already: nothing is saved but them, and one gradient `[N, V]` is made in the backward."""

    @staticmethod
    def forward(ctx: Any, job: Job, rows: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        ctx.job = job
        ctx.save_for_backward(logits, rows)
        values, nll = _run_logits(job, logits, rows, None)
        ctx.mark_non_differentiable(nll)
        return values, nll

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> Any:
        logits, rows = ctx.saved_tensors
        grad = torch.zeros_like(logits)
        _run_logits(replace(ctx.job, weights=ctx.job.weights * upstream), logits, rows, grad)
        return None, None, grad


def _run_logits(job: Job, logits: Tensor, rows: Tensor, grad: Tensor | None) -> tuple[Tensor, Tensor]:
    def read(chunk: slice) -> Tensor:
        return logits.index_select(0, rows[chunk])

    def write(chunk: slice, dlogits: Tensor) -> None:
        grad.index_copy_(0, rows[chunk], dlogits)  # type: ignore[union-attr]

    return _each_chunk(job, read, write if grad is not None else None, logits)


def rows_of_logits(job: Job, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted values (differentiable, once or often, token by token) and nll of the `rows` of logits `[N, V]`, both `[n]`."""
    with torch.autocast(logits.device.type, enabled=False):
        return _RowsOfLogits.apply(job, rows, logits)  # type: ignore[no-any-return]
