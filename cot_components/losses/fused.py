"""Supervised rows through head and loss in chunks: the logits of a whole batch never exist, and none are kept.

`fused` computes gradients in the forward, 6*n*d*V FLOPs for `n` supervised rows; the backward only multiplies them by
the upstream scalar, on the device. With `per_token` it saves its inputs and computes the logits again in the backward,
8*n*d*V, for a caller whose upstream gradient differs from token to token. `token_nll` is the forward alone, 2*n*d*V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cot_components.losses.types import Pairs, TopK

RowLosses = Callable[..., tuple[Tensor, Tensor, Tensor | None]]

VOCAB_BLOCK = 8192
"""Rows of the head's weight gradient that are computed at once where they must be converted to be added up."""


@dataclass(frozen=True)
class Job:
    """What a chunked pass needs besides the logits; everything is detached, and of the `n` supervised rows only.

    reference: head pairs of another model, its logits `[n, V]`, or its `TopK`
    """

    row_losses: RowLosses
    labels: Tensor
    weights: Tensor
    columns: Mapping[str, Tensor]
    reference: Pairs | Tensor | TopK | None
    chunk_rows: int

    def chunks(self) -> list[slice]:
        num_rows = len(self.labels)
        return [slice(at, min(at + self.chunk_rows, num_rows)) for at in range(0, num_rows, self.chunk_rows)]


class HeadGrads:
    """Gradients of the head's inputs and weights, filled chunk by chunk; None where nobody asked for one.

    They exist, and are zero, even if no chunk follows: a missing gradient on one rank breaks FSDP's reduction on all.
    """

    def __init__(self, xs: list[Tensor], weights: list[Tensor], wanted: list[bool], num_chunks: int) -> None:
        def summed_in(weight: Tensor) -> torch.dtype:  # bf16 chunks added up in bf16 lose more than one product does
            return weight.dtype if num_chunks <= 1 else torch.promote_types(weight.dtype, torch.float32)

        want_x, want_w = wanted[: len(xs)], wanted[len(xs) :]
        self.xs, self.weights = xs, weights
        self.of_x = [torch.zeros_like(x) if want else None for x, want in zip(xs, want_x, strict=True)]
        self.of_w = [
            torch.zeros_like(w, dtype=summed_in(w)) if want else None for w, want in zip(weights, want_w, strict=True)
        ]

    def add(self, chunk: slice, dlogits: Tensor) -> None:
        for x, weight, of_x, of_w in zip(self.xs, self.weights, self.of_x, self.of_w, strict=True):
            if of_x is not None:
                torch.mm(dlogits, weight, out=of_x[chunk])
            if of_w is not None and of_w.dtype == dlogits.dtype:
                of_w.addmm_(dlogits.t(), x[chunk])
            elif of_w is not None:
                for at in range(0, len(of_w), VOCAB_BLOCK):
                    block = slice(at, at + VOCAB_BLOCK)
                    of_w[block] += _product(dlogits[:, block].t(), x[chunk])

    def finished(self) -> list[Tensor | None]:
        of_w = [None if grad is None else grad.to(w.dtype) for grad, w in zip(self.of_w, self.weights, strict=True)]
        return [*self.of_x, *of_w]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` in fp32 from half-precision factors: a product rounded to bf16 before it is added has lost already."""
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.to(torch.float32) @ b.to(torch.float32)


def _each_chunk(
    job: Job, read: Callable[[slice], Tensor], write: Callable[[slice, Tensor], None] | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits in by `read`, their gradients out by `write`; weighted values and nll of all rows, both `[n]`."""
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
        return _logits(list(xs), list(weights), chunk)
    return None if reference is None else reference[chunk]


def _logits(xs: list[Tensor], weights: list[Tensor], chunk: slice, buffer: Tensor | None = None) -> Tensor:
    """Sum of `x W^T` over the pairs for one chunk of rows, in the buffer if there is one."""
    out = None if buffer is None else buffer[: chunk.stop - chunk.start]
    logits = torch.mm(xs[0][chunk], weights[0].t(), out=out)
    for x, weight in zip(xs[1:], weights[1:], strict=True):
        logits.addmm_(x[chunk], weight.t())
    return logits


def _run(job: Job, xs: list[Tensor], weights: list[Tensor], grads: HeadGrads | None) -> tuple[Tensor, Tensor]:
    """Weighted values and nll of all rows, both `[n]`, adding to `grads` on the way."""
    buffer = xs[0].new_empty(min(job.chunk_rows, len(xs[0])), weights[0].shape[0])

    def read(chunk: slice) -> Tensor:
        return _logits(xs, weights, chunk, buffer)

    return _each_chunk(job, read, None if grads is None else grads.add, xs[0])


def _halves(tensors: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    half = len(tensors) // 2
    return list(tensors[:half]), list(tensors[half:])


class _SumWithGradInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: Job, grad_enabled: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        wanted = list(ctx.needs_input_grad[2:])  # True even under no_grad, hence `grad_enabled`
        xs, weights = _halves(tensors)
        grads = HeadGrads(xs, weights, wanted, len(job.chunks())) if grad_enabled and any(wanted) else None
        values, nll = _run(job, xs, weights, grads)
        # On ctx, not in save_for_backward: hooks that offload saved activations would move V * d numbers to the host.
        ctx.grads = None if grads is None else grads.finished()
        ctx.mark_non_differentiable(nll)
        return values.sum(), nll

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> Any:
        if ctx.grads is None:
            raise RuntimeError("a fused loss goes backward once; build it with per_token_grad=True to go again")
        grads, ctx.grads = ctx.grads, None
        return None, None, *(grad if grad is None else grad.mul_(upstream) for grad in grads)


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
    """The row function on logits that exist already: only they are saved, and one gradient `[N, V]` is made."""

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
    """Weighted values, differentiable token by token and more than once, and nll of the `rows` of logits `[N, V]`."""
    with torch.autocast(logits.device.type, enabled=False):
        return _RowsOfLogits.apply(job, rows, logits)  # type: ignore[no-any-return]
