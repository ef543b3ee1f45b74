"""The KV cache of a batch during decoding, and the attention that reads it.

`KeyValues` is passed through a torchtune decoder as `mask`, like `attention.Documents`, so nothing is set up or left
behind in the model. torchtune's own cache copies all its slots for every query head that shares a key head; this one is
read in place, up to the last token.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class KeyValues:
    """One batch of rows, padded on the left, in consecutive slots.

    Args:
        padding: slots of each row that hold no token, int64 `[B]`.
        slots: total number of slots.
        dtype: of the model.
    """

    def __init__(self, padding: Tensor, slots: int, dtype: torch.dtype) -> None:
        self._padding, self._slots, self._dtype = padding, slots, dtype
        self._kept: dict[Any, tuple[Tensor, Tensor]] = {}  # attention -> keys and values, `[B, key heads, slots, d]`
        self._begin = self._end = 0
        self._bias = torch.empty(0)

    def advance(self, num_tokens: int) -> Tensor:
        """Advance to the next `num_tokens` slots.

        Returns:
            the position of each of their tokens in its row, int64 `[B, num_tokens]`; 0 in the padding.
        """
        self._begin, self._end = self._end, self._end + num_tokens
        key = torch.arange(self._end, device=self._padding.device)
        query = key[self._begin :, None]
        visible = (key <= query) & (key >= self._padding[:, None, None])
        visible |= key == query  # a query in the padding attends to itself: a softmax over nothing is NaN
        self._bias = torch.zeros(visible.shape, dtype=self._dtype, device=key.device).masked_fill_(~visible, -torch.inf)
        self._bias = self._bias[:, None]
        return (key[self._begin :] - self._padding[:, None]).clamp(min=0)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, int64 `[kept]`."""
        self._padding = self._padding[rows]
        self._kept = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self._kept.items()}

    def attend(self, layer: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of the newest tokens, `[B, heads, T, d]`, to all earlier ones and themselves; stores `k` and
        `v`."""
        if layer not in self._kept:
            size = (*k.shape[:2], self._slots, k.shape[3])
            self._kept[layer] = (k.new_empty(size), v.new_empty(size))
        keys, values = (kept[:, :, : self._end] for kept in self._kept[layer])
        keys[:, :, self._begin :], values[:, :, self._begin :] = k, v
        if q.shape[2] > 1:
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=self._bias, enable_gqa=True)
        together = q.view(q.shape[0], k.shape[1], -1, q.shape[3])  # query heads of one key head become its queries
        return F.scaled_dot_product_attention(together, keys, values, attn_mask=self._bias).view_as(q)


def attention(
    layer: Any, x: Tensor, y: Tensor | None = None, *, mask: Any = None, input_pos: Tensor | None = None
) -> Tensor:
    """The forward of torchtune's `MultiHeadAttention`, reading `KeyValues` if the mask is one."""
    if not isinstance(mask, KeyValues):
        return type(layer).forward(layer, x, y, mask=mask, input_pos=input_pos)
    return layer.output_proj(_read(layer, x, mask, input_pos))


@torch.compiler.disable  # type: ignore[untyped-decorator]  # not one graph per length
def _read(layer: Any, x: Tensor, cache: KeyValues, input_pos: Tensor | None) -> Tensor:
    q, k, v = (project(x).unflatten(-1, (-1, layer.head_dim)) for project in (layer.q_proj, layer.k_proj, layer.v_proj))
    if layer.pos_embeddings is not None:
        q, k = (layer.pos_embeddings(each, input_pos=input_pos) for each in (q, k))
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    q = q if layer.q_norm is None else layer.q_norm(q)
    k = k if layer.k_norm is None else layer.k_norm(k)
    return cache.attend(layer, q, k, v).transpose(1, 2).flatten(2)
