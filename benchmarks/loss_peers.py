"""The losses that ours is measured against; each is `(hidden [N, d], head [V, d], labels [N]) -> sum of nll`.

Functions of installed packages are called directly; methods without an entry point of their own are reimplemented here,
with their origin named.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Peer = Callable[[Tensor, Tensor, Tensor], Tensor]

NAIVE = "linear + cross_entropy"
TORCH_CHUNKED = "torch, its own chunks"


def naive(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ head.t()).float(), labels, reduction="sum")


def torchtune_chunked() -> Peer:
    """torchtune 0.6.1's default, as its recipes call it: the model's output in 8 chunks, then the chunked loss."""
    loss_class = importlib.import_module("torchtune.modules.loss").CEWithChunkedOutputLoss
    loss = loss_class()

    def run(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        chunks = [chunk @ head.t() for chunk in hidden[None].chunk(loss.num_output_chunks, dim=1)]
        return loss(chunks, labels[None]) * (labels != loss.ignore_index).sum()

    return run


def torch_fused(*, chunked: bool = False) -> Peer:
    """torch's own `linear_cross_entropy`, plain or with its chunking options at their defaults."""
    if not hasattr(F, "linear_cross_entropy"):
        raise ImportError("this torch has no linear_cross_entropy")
    options = torch.nn.LinearCrossEntropyOptions() if chunked else None

    def run(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        return F.linear_cross_entropy(hidden, head, labels, reduction="sum", ignore_index=-100, options=options)

    return run


def checkpointed_chunks() -> Peer:
    """Supervised rows in chunks of 256, logits recomputed in the backward, as in TRL's `chunked_nll`."""

    def chunk_nll(rows: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy((rows @ head.t()).float(), labels, reduction="sum")

    def run(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        rows = (labels != -100).nonzero().squeeze(1)
        total = hidden.new_zeros((), dtype=torch.float32)
        for part in rows.split(256):
            total = total + checkpoint(chunk_nll, hidden[part], head, labels[part], use_reentrant=False)
        return total

    return run


def liger() -> Peer:
    loss = importlib.import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return lambda hidden, head, labels: loss(head, hidden, labels)


def cut_cross_entropy() -> Peer:
    function = importlib.import_module("cut_cross_entropy").linear_cross_entropy
    return lambda hidden, head, labels: function(hidden, head, labels, reduction="sum")


ON_CPU: dict[str, Callable[[], Peer]] = {
    "torchtune 0.6.1 chunked": torchtune_chunked,
    "torch linear_cross_entropy": torch_fused,
    TORCH_CHUNKED: partial(torch_fused, chunked=True),
    "TRL's way": checkpointed_chunks,
}
ON_GPU: dict[str, Callable[[], Peer]] = {**ON_CPU, "Liger": liger, "cut-cross-entropy": cut_cross_entropy}


def available(makers: dict[str, Callable[[], Peer]]) -> tuple[dict[str, Peer], dict[str, str]]:
    """Peers that can run here, and why the others cannot."""
    found, absent = {}, {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except (ImportError, AttributeError) as error:
            absent[name] = str(error)
    return found, absent
