"""The cache of a `transformers` model with the interface of `models.kv_cache.KeyValues`; passed as `mask`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class PastTokens:
    """One batch of rows, padded on the left; the model creates the cache itself, with the kinds of entries its layers
    need.

    Args:
        padding: slots of each row that hold no token, int64 `[B]`.
        slots, dtype: unused: the cache grows as needed, in the model's dtype.
    """

    def __init__(self, padding: Tensor, slots: int, dtype: torch.dtype) -> None:
        self._padding, self._end = padding, 0
        self.cache: Any = None

    def advance(self, num_tokens: int) -> Tensor:
        """Advance by `num_tokens`; returns the position of each in its row, int64 `[B, num_tokens]`, 0 in the
        padding."""
        begin, self._end = self._end, self._end + num_tokens
        return (torch.arange(begin, self._end, device=self._padding.device) - self._padding[:, None]).clamp(min=0)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, int64 `[kept]`."""
        self._padding = self._padding[rows]
        self.cache.reorder_cache(rows)

    @property
    def seen(self) -> Tensor:
        """Which slots hold a token, int64 `[B, slots so far]`."""
        return (torch.arange(self._end, device=self._padding.device) >= self._padding[:, None]).long()
