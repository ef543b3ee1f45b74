"""Attention of a `transformers` model inside packed rows: no document sees another, and no mask of `T x T` is made.

Registered under `NAME`. A model makes its masks once per forward, before its layers: inside of `each_document` they are
`Documents`, which travel through the layers as any mask does, so that activation checkpointing finds them again.
Elsewhere all is `sdpa`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cot_components.errors import UserError
from cot_components.models.attention import Documents
from cot_components.models.transformers_backbone.library import library

NAME = "cot_documents"
_packed: ContextVar[Documents | None] = ContextVar("packed", default=None)


class Mask(NamedTuple):
    """Of a packed batch: its documents, and how many tokens a token of this layer sees at most, None for all."""

    documents: Documents
    window: int | None


@contextmanager
def each_document(documents: Documents | None) -> Iterator[None]:
    """A context in which models with this attention see rows as these documents; None is rows as they are."""
    token = _packed.set(documents)
    try:
        yield
    finally:
        _packed.reset(token)


def register() -> str:
    """Make the attention known to `transformers`; returns its name."""
    package = library()
    package.AttentionInterface.register(NAME, _attend)
    package.AttentionMaskInterface.register(NAME, _mask)
    return NAME


def _mask(*, local_size: int | None = None, use_vmap: bool = False, **rest: Any) -> Tensor | Mask | None:
    """What `transformers` calls for the masks of a forward."""
    if (documents := _packed.get()) is None:
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(local_size=local_size, use_vmap=use_vmap, **rest)
    if use_vmap:
        raise UserError("packed_tokens: this model lays a mask of its own over attention; train without packing")
    return Mask(documents, local_size)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **how: Any
) -> tuple[Tensor, None]:
    """What an attention layer calls: all are `[B, heads, T, dim]`, the result `[B, T, heads, dim]`."""
    if isinstance(attention_mask, Mask):
        return _each_document(module, query, key, value, attention_mask, how), None
    if _packed.get() is not None:
        raise UserError(f"packed_tokens: {type(module).__name__} asks for no mask; train without packing")
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, attention_mask, **how)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # one graph whatever the lengths
def _each_document(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Mask, how: dict[str, Any]) -> Tensor:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    sdpa: Any = sdpa_attention_forward
    parts = zip(*(x.split(mask.documents.lengths, dim=2) for x in (query, key, value)), strict=True)
    each = (sdpa(module, *part, _band(part[0], mask.window), **how)[0] for part in parts)
    return torch.cat(list(each), 1)


def _band(query: Tensor, window: int | None) -> Tensor | None:
    """bool `[1, 1, T, T]` of a document longer than the window; None where plain causal attention is the same."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    place = torch.arange(length, device=query.device)
    behind = place[:, None] - place
    return ((behind >= 0) & (behind < window))[None, None]
