"""Empty rows that are still too long after the preceding transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cot_components.clock import Clock
from cot_components.data.rows.flat import Flat
from cot_components.errors import UserError
from cot_components.transforms.remove import keep_tokens


@dataclass(frozen=True)
class Cap:
    """Empty the rows that are still too long; an emptied row counts for nothing. Goes after `Remove` (a curriculum's
    removal runs before all `dataset.transforms`).

    A row that is too long at one stage may fit at a later one, when more of its thought is gone.

    Args:
        max_tokens: longest row in tokens, at least 1.
        scope: `row` empties the row, `batch` its whole micro-batch, as the released script of stepwise internalisation
            does with its `max_len_train`.

    Raises:
        UserError: a setting out of range.
    """

    max_tokens: int
    scope: Literal["row", "batch"] = "row"

    needs_epoch = False
    changes_lengths = True

    @property
    def counts_micro_batches(self) -> bool:
        """Whether the result depends on how a step is divided into micro-batches."""
        return self.scope == "batch"

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"cap: max_tokens must be at least 1, got {self.max_tokens}")
        if self.scope not in ("row", "batch"):
            raise UserError(f"cap: scope must be 'row' or 'batch', got {self.scope!r}")

    def __call__(self, flat: Flat, clock: Clock) -> Flat:
        """Change only `lengths`: an emptied row loses all its tokens but keeps its place and id in the batch."""
        too_long = flat.lengths > self.max_tokens
        if not too_long.any():
            return flat
        if self.scope == "batch":
            too_long[:] = True
        return keep_tokens(flat, np.repeat(~too_long, flat.lengths))
