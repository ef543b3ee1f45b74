"""The cache of a `transformers` model with the methods of `models.kv_cache.KeyValues`: of one batch, sent as `mask`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class PastTokens:
    """One batch of rows, padded on the left; the model makes the cache itself, of the kinds that its layers need.

    Args:
        padding: slots of each row that hold no token, int64 `[B]`.
        slots, dtype: the cache grows as it is read, in the numbers of the model.
    """

    def __init__(self, padding: Tensor, slots: int, dtype: torch.dtype) -> None:
        self._padding, self._end = padding, 0
        self.cache: Any = None

    def advance(self, num_tokens: int) -> Tensor:
        """Go on by `num_tokens`; returns the position of each in its row, int64 `[B, num_tokens]`, 0 in the padding."""
        begin, self._end = self._end, self._end + num_tokens
        return (torch.arange(begin, self._end, device=self._padding.device) - self._padding[:, None]).clamp(min=0)

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these, int64 `[kept]`."""
        self._padding = self._padding[rows]
        self.cache.reorder_cache(rows)

    @property
    def seen(self) -> Tensor:
        """Which slots hold a token, int64 `[B, slots so far]`."""
        return (torch.arange(self._end, device=self._padding.device) >= self._padding[:, None]).long()
