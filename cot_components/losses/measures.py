"""Per-token measurements of a model, without gradients: loss, entropy, rank and top probability."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cot_components.losses.fused import logits_of
from cot_components.losses.loss import CPU_CHUNK_ROWS, GPU_CHUNK_ROWS, pairs_of
from cot_components.losses.types import Head

MEASURES: Mapping[str, str] = {
    "nll": "negative log-probability of the token, in nats",
    "entropy": "of the distribution it was drawn from, in nats",
    "rank": "of the token in the whole vocabulary; 1 is the likeliest",
    "top_probability": "of the likeliest token",
}
"""Name to meaning."""


def measure(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    rows: Tensor,
    columns: Mapping[str, Tensor] | None = None,
    reference: Any = None,
    wanted: Sequence[str] = tuple(MEASURES),
) -> dict[str, Tensor]:
    """Measures of the targets `rows`, fp32 `[n]` each; logits exist for one chunk of them at a time.

    Args:
        hidden, head, labels, rows: as in `Loss.fused`; pass this function to `model.loss` in its place.
        weights, columns, reference: ignored.
        wanted: names in `MEASURES`, which also gives their units.

    Raises:
        UserError: hidden states and head that do not fit; see `pairs_of`.
    """
    pairs = pairs_of(head, hidden.index_select(0, rows))
    xs, matrices = zip(*pairs, strict=True)
    labels = labels.index_select(0, rows)
    size, work = (CPU_CHUNK_ROWS, measures_of) if hidden.device.type == "cpu" else (GPU_CHUNK_ROWS, _compiled())
    buffer = xs[0].new_empty(min(size, len(labels)), matrices[0].shape[0])
    found = {name: torch.zeros(len(labels), device=hidden.device) for name in wanted}
    with torch.autocast(hidden.device.type, enabled=False):
        for at in range(0, len(labels), size):
            chunk = slice(at, min(at + size, len(labels)))
            logits = logits_of(xs, matrices, chunk, buffer)
            for name, values in zip(wanted, work(logits, labels[chunk], wanted), strict=True):
                found[name][chunk] = values
    return found


def measures_of(logits: Tensor, labels: Tensor, wanted: Sequence[str]) -> list[Tensor]:
    """The measures `wanted` of some rows, `[n]` each, in the order of `wanted`.

    Args:
        logits: `[n, V]`, overwritten; the work is done in fp32, or in float64 if they are.
        labels: int64 `[n]`, token ids.
        wanted: names in `MEASURES`.
    """
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    z = z.sub_(z.amax(-1, keepdim=True))
    z_label = z.gather(1, labels[:, None])
    found = {}
    if "rank" in wanted:
        found["rank"] = (z > z_label).sum(-1) + 1
    exp_z = z.exp() if "entropy" in wanted else z.exp_()
    total = exp_z.sum(-1)
    found["nll"] = total.log() - z_label.squeeze(1)
    found["top_probability"] = 1 / total
    if "entropy" in wanted:
        found["entropy"] = total.log() - torch.linalg.vecdot(exp_z, z) / total
    return [found[name] for name in wanted]


@functools.cache
def _compiled() -> Callable[..., list[Tensor]]:
    return torch.compile(measures_of)
