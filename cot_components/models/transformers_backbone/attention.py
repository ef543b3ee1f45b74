"""Attention of a `transformers` model inside packed rows: no document sees another, and no mask of `T x T` is made.

Registered under `NAME`. A model makes its masks once per forward, before its layers: inside `each_document` they carry
`Documents` and are passed through the layers like any mask, so activation checkpointing sees them again. Outside it
everything is plain `sdpa`.
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
    attended:  number of layers that have used it
    window:    most tokens a token of this layer attends to, None for all
    """

    documents: Documents
    attended: list[None]
    window: int | None = None


_packed: ContextVar[Mask | None] = ContextVar("packed", default=None)


@contextmanager
def each_document(documents: Documents | None, num_layers: int) -> Iterator[None]:
    """A context in which one forward of a model treats its rows as these documents; None changes nothing.

    Raises:
        UserError: at its end, if fewer than `num_layers` layers have used them.
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
        raise UserError("packed_tokens: this model has layers that bypass its attention; set packed_tokens=null")


def register() -> str:
    """Register the attention with `transformers`; returns its name."""
    package = library()
    package.AttentionInterface.register(NAME, _attend)
    package.AttentionMaskInterface.register(NAME, _mask)
    return NAME


def _mask(*, local_size: int | None = None, use_vmap: bool = False, **rest: Any) -> Tensor | Mask | None:
    """The function `transformers` calls to make the masks of a forward."""
    if (packed := _packed.get()) is None:
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(local_size=local_size, use_vmap=use_vmap, **rest)
    if use_vmap:
        raise UserError("packed_tokens: this model adds its own attention mask; set packed_tokens=null")
    return replace(packed, window=local_size)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **how: Any
) -> tuple[Tensor, None]:
    """The function an attention layer calls; inputs are `[B, heads, T, dim]`, the result `[B, T, heads, dim]`."""
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
    """bool `[1, 1, T, T]` for a document longer than the window; None if plain causal attention is equivalent."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    place = torch.arange(length, device=query.device)
    behind = place[:, None] - place
    return ((behind >= 0) & (behind < window))[None, None]
