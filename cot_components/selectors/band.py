"""Rows whose perplexity is neither too low nor too high."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cot_components.data.rows.scores import open_scores
from cot_components.data.rows.selection import Selection
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError, require


@dataclass(frozen=True, kw_only=True)
class PerplexityBand:
    """Keep the rows whose perplexity (`exp` of the mean loss of their scored tokens) lies in a band.

    Args:
        scores: folder that `cot score` has filled.
        at_least, at_most: ends of the band, inclusive; None leaves an end open.
        quantiles: the ends are quantiles (0 to 1) of all scored rows rather than perplexities: `at_least: 0.1, at_most:
            0.9` is the middle 80 %.
        column: the losses of the tokens, in nats.

    Raises:
        UserError: a band without ends or with nothing in it; no such scores; when called, unfinished scores, or a row
            that was not scored, or was scored with other tokens.
    """

    scores: str
    at_least: float | None = None
    at_most: float | None = None
    quantiles: bool = False
    column: str = "nll"

    def __post_init__(self) -> None:
        for name, value in (("at_least", self.at_least), ("at_most", self.at_most)):
            if value is not None:
                require(f"perplexity band: {name}", value, *((0.0, 1.0) if self.quantiles else (0.0,)))
        if self.at_least is None and self.at_most is None:
            raise UserError("perplexity band: set at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise UserError(f"perplexity band: at_least ({self.at_least}) is above at_most ({self.at_most})")
        open_scores(self.scores).column(self.column)

    def __call__(self, rows: Rows) -> Selection:
        """Leave out the rows below and above the band."""
        found = open_scores(self.scores)
        of_all = np.exp(found.row_means(self.column))
        perplexity, left_out = of_all[found.index_of(rows)], {}
        if self.at_least is not None:
            low = np.quantile(of_all, self.at_least) if self.quantiles else self.at_least
            left_out[f"perplexity below {low:.4g}"] = perplexity < low
        if self.at_most is not None:
            high = np.quantile(of_all, self.at_most) if self.quantiles else self.at_most
            left_out[f"perplexity above {high:.4g}"] = perplexity > high
        return Selection(left_out)
