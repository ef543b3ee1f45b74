"""Attention of a `transformers` model inside packed rows: no document sees another, and no mask of `T x T` is made.

Registered under `NAME`. A model makes its masks once per forward, before its layers: inside of `each_document` they are
`Documents`, which travel through the layers as any mask does, so that activation checkpointing finds them again.
Elsewhere all is `sdpa`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cot_components.errors import UserError
from cot_components.models.attention import Documents
from cot_components.models.transformers_backbone.library import library

NAME = "cot_documents"


@dataclass(frozen=True)
class Mask:
    """Of a packed batch.

    documents: tokens of each
    attended:  grows by one for each layer that looked at it
    window:    how many tokens a token of this layer sees at most, None for all
    """

    documents: Documents
    attended: list[None]
    window: int | None = None


_packed: ContextVar[Mask | None] = ContextVar("packed", default=None)


@contextmanager
def each_document(documents: Documents | None, num_layers: int) -> Iterator[None]:
    """A context in which one forward of a model sees rows as these documents; None is rows as they are.

    Raises:
        UserError: at its end, if fewer than `num_layers` have looked at them.
    """
    if documents is None:
        yield
        return
    mask = Mask(documents, [])
    token = _packed.set(mask)
    try:
        yield
    finally:
        _packed.reset(token)
    if len(mask.attended) < num_layers:
        raise UserError("packed_tokens: this model has layers that go around its attention; set packed_tokens=null")


def register() -> str:
    """Make the attention known to `transformers`; returns its name."""
    package = library()
    package.AttentionInterface.register(NAME, _attend)
    package.AttentionMaskInterface.register(NAME, _mask)
    return NAME


def _mask(*, local_size: int | None = None, use_vmap: bool = False, **rest: Any) -> Tensor | Mask | None:
    """What `transformers` calls for the masks of a forward."""
    if (packed := _packed.get()) is None:
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(local_size=local_size, use_vmap=use_vmap, **rest)
    if use_vmap:
        raise UserError("packed_tokens: this model lays a mask of its own over attention; set packed_tokens=null")
    return replace(packed, window=local_size)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **how: Any
) -> tuple[Tensor, None]:
    """What an attention layer calls: all are `[B, heads, T, dim]`, the result `[B, T, heads, dim]`."""
    if isinstance(attention_mask, Mask):
        return _each_document(module, query, key, value, attention_mask, how), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, attention_mask, **how)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # one graph whatever the lengths
def _each_document(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Mask, how: dict[str, Any]) -> Tensor:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    mask.attended.append(None)
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
