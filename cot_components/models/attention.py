"""Attention inside packed rows: no document sees another, and no mask of `T x T` is ever made.

`document_mask` makes the object passed through a torchtune decoder as `mask`; its attention calls `attend` with it. On
a CPU, and for short batches, that is plain causal attention per document; on a GPU, from `FLEX_FROM` tokens on,
FlexAttention over the blocks that some document touches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

FLEX_FROM = 1024
"""Below this many tokens per batch, one kernel per document is as fast."""

BLOCK = 128


@dataclass(frozen=True)
class Documents:
    """Represents a block-diagonal causal mask by the tokens per document, in order.

    Not a tuple: torch.compile would inspect one and recompile for every new set of lengths.
    """

    lengths: tuple[int, ...]


def document_mask(lengths: Sequence[int], device: torch.device) -> Documents | BlockMask:
    """The mask of a packed batch on a device.

    Args:
        lengths: tokens per document, padding included; they sum to the length of the batch.
        device: where the model is. FlexAttention has no backward on a CPU.
    """
    if device.type == "cuda" and sum(lengths) >= FLEX_FROM:
        return block_mask(lengths, device)
    return Documents(tuple(lengths))


def block_mask(lengths: Sequence[int], device: torch.device) -> BlockMask:
    """Causal attention within documents as a FlexAttention block mask, built from the lengths alone in O(blocks^2).

    Keys of query block `i` begin in the block where the document of its first token begins. If that document covers the
    whole query block, key blocks between its start and the diagonal need no mask at all.
    """
    spans = torch.tensor(lengths).to(device, non_blocking=True)
    num_tokens = sum(lengths)
    begins = (spans.cumsum(0) - spans).repeat_interleave(spans, output_size=num_tokens)  # of each token's document
    num_blocks = -(-num_tokens // BLOCK)
    first = torch.arange(num_blocks, device=device) * BLOCK
    last = (first + BLOCK).clamp(max=num_tokens) - 1
    key_block = torch.arange(num_blocks, device=device)[None]
    touched = (key_block >= begins[first, None] // BLOCK) & (key_block * BLOCK <= first[:, None])
    whole = (key_block * BLOCK >= begins[last, None]) & (key_block * BLOCK < first[:, None])

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key >= begins[query])

    return BlockMask.from_kv_blocks(
        *_as_lists(touched & ~whole),
        *_as_lists(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(num_tokens, num_tokens),
    )


def _as_lists(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Per query block, how many key blocks are chosen and which, those first: int32 `[1, 1, Q]` and `[1, 1, Q, K]`."""
    count = chosen.sum(1, dtype=torch.int32)
    indices = torch.argsort(~chosen, dim=1, stable=True).to(torch.int32)
    return count[None, None], indices[None, None]


def attend(
    stock: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Any, dropout_p: float, is_causal: bool
) -> Tensor:
    """The attention function of `MultiHeadAttention`: `stock` unless the mask is a `Documents`; tensors are `[B, heads,
    T, dim]`."""
    if isinstance(mask, Documents):
        return _each_document(q, k, v, mask, dropout_p)
    return stock(q, k, v, mask=mask, dropout_p=dropout_p, is_causal=is_causal)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # one graph whatever the lengths
def _each_document(q: Tensor, k: Tensor, v: Tensor, mask: Documents, dropout_p: float) -> Tensor:
    documents = zip(*(x.split(mask.lengths, dim=2) for x in (q, k, v)), strict=True)
    each = (F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=True) for q, k, v in documents)
    return torch.cat(list(each), 2)
