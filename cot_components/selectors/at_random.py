"""Random rows: the baseline a selector must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cot_components.clock import redrawn, row_keys
from cot_components.data.rows.selection import Selection
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.selectors.grape import rank_in_prompt

_SALT = 2


@dataclass(frozen=True, kw_only=True)
class AtRandom:
    """Keep random rows, drawn by id: a share of all rows, or a number per prompt. Set to keep as many rows as another
    selector, it is that selector's control.

    Args:
        keep: share of the rows, above 0 and at most 1; at least one row stays. Rows kept at one share are kept at every
            higher one.
        per_prompt: instead of `keep`: rows kept per prompt, at least 1.
        seed: of the draw.

    Raises:
        UserError: a setting out of range; neither or both of `keep` and `per_prompt`.
    """

    keep: float | None = None
    per_prompt: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.per_prompt is None):
            raise UserError("at random: set one of keep and per_prompt")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise UserError(f"at random: keep must lie in (0, 1], got {self.keep}")
        if self.per_prompt is not None and self.per_prompt < 1:
            raise UserError(f"at random: per_prompt must be at least 1, got {self.per_prompt}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"at random: seed must lie between 0 and 2**63, got {self.seed}")

    def __call__(self, rows: Rows) -> Selection:
        """Leave out the rows with the largest draws."""
        draws = redrawn(row_keys(self.seed, 0, np.asarray(rows.ids)), _SALT)
        if self.per_prompt is not None:
            return Selection({"another row of the prompt was drawn": rank_in_prompt(rows, draws) >= self.per_prompt})
        assert self.keep is not None
        leaves = np.ones(len(rows), dtype=bool)
        leaves[np.argsort(draws, kind="stable")[: max(round(self.keep * len(rows)), 1)]] = False
        return Selection({"not drawn": leaves})
